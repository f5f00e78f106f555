# MinIO publishes no images of this version.
FROM golang:1.26 AS build
RUN go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
FROM debian:bookworm-slim
COPY --from=build /go/bin/minio /usr/local/bin/minio
ENTRYPOINT ["minio"]
