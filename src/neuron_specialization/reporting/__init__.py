"""The report: tables, analyses and the page that brings them together."""
