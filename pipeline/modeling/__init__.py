"""Backbone, objective, optimizer, schedule, average."""
