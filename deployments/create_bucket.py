"""Create the bucket of MLflow's artifacts if it does not exist.

``python -m deployments.create_bucket s3://mlflow``; address and keys come from MLflow's own
environment variables.
"""

from __future__ import annotations

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def create_bucket(uri: str, *, endpoint: str) -> bool:
    """Create the bucket of an ``s3://`` address; return whether it was missing."""
    client = boto3.client(
        "s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"})
    )
    bucket = uri.removeprefix("s3://").split("/")[0]
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=bucket)
        return True
    return False


if __name__ == "__main__":
    made = create_bucket(sys.argv[1], endpoint=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    sys.stdout.write(f"{sys.argv[1]}: {'created' if made else 'exists'}\n")
