"""Analysis of answers and scores: statistics, comparisons of methods, judges, and costs."""
