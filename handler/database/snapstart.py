"""SnapStart: no connection goes into a snapshot, from which many environments would wake up with the same socket.

AWS Lambda developer guide, "Implement code before or after Lambda function snapshots": the runtime brings
`snapshot_restore_py`; where it is not, nothing is snapshotted either.
"""

from sqlalchemy import Engine


def register(engine: Engine) -> None:
    """Close the engine's connections before a snapshot; the first request after a restore makes a new one."""
    try:
        from snapshot_restore_py import register_before_snapshot  # noqa: PLC0415 - only in the Lambda runtime
    except ImportError:
        return
    register_before_snapshot(engine.dispose)
