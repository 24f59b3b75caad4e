"""Groups that find what is there twice."""
