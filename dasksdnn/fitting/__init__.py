"""What estimators are made of: checked samples, stores that live as long as they do, and how the two are trained."""
