"""Statistics, rankings, judges and costs."""
