"""Analysis of answers and scores: statistics, comparisons of methods, a judge, and costs."""
