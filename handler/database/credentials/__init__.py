"""The user and the password of a new connection: static, from Secrets Manager, or an RDS IAM token."""
