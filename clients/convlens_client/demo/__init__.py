"""`python -m convlens_client.demo`: everything that ConvLens does, on one photo, as a page to look at."""
