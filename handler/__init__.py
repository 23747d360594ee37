"""The code that is deployed. `main.handler` is the Lambda entry point, and `migrate` runs the migrations."""
