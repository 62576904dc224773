"""Scripts of the build, the assets and the reports; none of them is imported by the product."""
