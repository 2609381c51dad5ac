-- Run by the postgres image once, when its volume is empty.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
