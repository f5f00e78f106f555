# What runs your code: the workers and the driver, with the same packages. Add yours.
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir '/src[s3]'
# RUN pip install --no-cache-dir your-package
