"""What is deployed. `main.handler` is the Lambda entry, `migrate` the deploy-time one."""
