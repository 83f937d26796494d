# coordd and coordctl, built from this checkout:
#   docker build -t coordd .
#   docker run -p 7401:7401 -v coordd:/var/lib/coordd coordd
# Alone it is a single node; compose.yaml has three.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# --locked: what was tested is what is built.
RUN cargo build --release --locked -p coordd-server -p coordctl \
    && strip target/release/coordd target/release/coordctl

FROM debian:bookworm-slim
# A fixed id, so that a volume keeps its owner when the image is built anew. The directory exists and has its owner
# before VOLUME: an empty named volume takes both from here.
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/coordd --create-home coordd
COPY --from=build /src/target/release/coordd /src/target/release/coordctl /usr/local/bin/
USER coordd
WORKDIR /var/lib/coordd
# The defaults listen on the loopback only, where nobody outside of the container could connect.
ENV COORDD_LISTEN=0.0.0.0:7401 \
    COORDD_PEER_LISTEN=0.0.0.0:7501 \
    COORDD_DATA_DIR=/var/lib/coordd/data
VOLUME /var/lib/coordd
EXPOSE 7401 7501
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["coordctl", "--endpoints", "127.0.0.1:7401", "--timeout", "2s", "health"]
# coordd stops cleanly on SIGTERM, which is what `docker stop` sends; give it more than the default ten seconds
# (`docker stop -t 20`) if writes may be under way.
ENTRYPOINT ["coordd"]
