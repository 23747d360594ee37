"""SnapStart: connections are closed before a snapshot, or many environments would be restored with the same socket.

AWS Lambda developer guide, "Implement code before or after Lambda function snapshots": the runtime contains
`snapshot_restore_py`. Without that module there are no snapshots.
"""

from sqlalchemy import Engine


def register(engine: Engine) -> None:
    """Close the engine's connections before a snapshot. The first request after a restore opens a new one."""
    try:
        from snapshot_restore_py import register_before_snapshot  # noqa: PLC0415 - only in the Lambda runtime
    except ImportError:
        return
    register_before_snapshot(engine.dispose)
