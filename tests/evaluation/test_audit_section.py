"""The report's audit section: what was found in words and counts, and pictures of it."""

from audits import NO_PICTURES, audit_with, picture

from pipeline.evaluation.audited import absent_names, found_rows
from pipeline.findings import EXPLANATIONS, AuditPictures


def test_what_was_found_is_told_from_what_was_not():
    audit = audit_with(leakage=(1, 2), duplicates=(3, 7))
    assert [row.name for row in found_rows(audit, NO_PICTURES)] == ["Duplicates", "Leakage"]
    names = absent_names(audit)
    assert len(names) == len(EXPLANATIONS) - 2
    assert "Near duplicates" in names


def test_a_group_is_a_row_of_pictures_and_what_is_not_shown_is_counted():
    groups = [[picture(1, "a.jpg"), picture(1, "b.jpg")], [picture(2, "c.jpg"), picture(2, "d.jpg")]]
    [row] = found_rows(audit_with(duplicates=(5, 11)), AuditPictures(examples={"duplicates": groups}))
    assert (row.num_groups, row.num_images, row.num_more, row.policy) == (5, 11, 3, "warn")
    assert [group.pictures for group in row.groups] == groups
    assert [group.num_more for group in row.groups] == [1, 0]


def test_images_that_are_findings_alone_stand_in_one_row():
    groups = [[picture(1, "a.jpg")], [picture(2, "b.jpg")]]
    [row] = found_rows(audit_with(dark_images=(4, 4)), AuditPictures(examples={"dark_images": groups}))
    assert [each.path for each in row.groups[0].pictures] == ["a.jpg", "b.jpg"]
    assert (row.num_groups, row.num_more) == (None, 2)


def test_a_finding_without_pictures_has_no_row_of_them():
    [row] = found_rows(audit_with(rare_classes=(3, 9)), NO_PICTURES)
    assert (row.groups, row.num_more) == ([], 0)


def test_rare_classes_are_counted_as_classes_whatever_their_images():
    [row] = found_rows(audit_with(rare_classes=(3, 3)), NO_PICTURES)
    assert (row.num_groups, row.num_images) == (3, 3)
