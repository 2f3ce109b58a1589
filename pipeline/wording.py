"""Numbers as people read them in a sentence."""


def counted(number: int, noun: str) -> str:
    """Such as 1 image, 2,000 images; the nouns are those whose plural ends with an s, or in es after an s."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"


def size_text(num_bytes: float) -> str:
    """Such as 7.7 MB."""
    units = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
    unit = next((unit for unit, scale in units.items() if num_bytes >= scale), "kB")
    return f"{num_bytes / units[unit]:.1f} {unit}"


def time_text(seconds: float) -> str:
    """Such as 1 d 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours = divmod(minutes // 60, 24)
    return " ".join(
        part for part in (f"{days} d" * (days > 0), f"{hours} h" * (minutes >= 60), f"{minutes % 60} min") if part
    )
