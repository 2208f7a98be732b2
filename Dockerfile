# The gateway in a container.
#
#   docker build -t fusegw .
#   docker run --rm -it -v fusegw-state:/var/lib/fusegw -v /etc/fusegw:/etc/fusegw fusegw \
#       init tank --store s3://bucket/tank --recovery-key-file /etc/fusegw/tank.recovery
#   docker run -d --name tank --stop-timeout 330 \
#       --device /dev/fuse --cap-drop ALL --cap-add SYS_ADMIN --cap-add DAC_READ_SEARCH \
#       --security-opt apparmor=unconfined \
#       -v fusegw-state:/var/lib/fusegw -v fusegw-cache:/var/cache/fusegw -v /etc/fusegw:/etc/fusegw:ro \
#       -v /srv/fusegw:/mnt:rshared fusegw mount tank
#
# The mount is at /mnt/tank in the container and, by the rshared volume, at /srv/fusegw/tank on the host; `mount` without
# a volume's name shows all volumes as directories of /mnt/volumes.
# Shares: smbd and nfs-ganesha act as the users of their clients, and as root, which takes Docker's usual capabilities besides
# the two: leave --cap-drop out. They listen where [smb] and [nfs] of the configuration say, on the container's loopback by
# default; with listen = ["0.0.0.0"] and listen = "0.0.0.0" there, -p 445:445 -p 2049:2049 -p 20048:20048 leads to them.
# `docker stop` sends SIGTERM: the gateway unmounts, writes what it has to disk, uploads for at most five minutes.

FROM debian:12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libfuse3-dev pkg-config python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/fusegw
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fusegw fusegw
COPY cache cache
COPY exports exports
RUN PIP_CONSTRAINT=/src/constraints.txt /opt/fusegw/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates fuse3 python3 tini \
        samba samba-vfs-modules libnss-wrapper nfs-ganesha nfs-ganesha-vfs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fusegw /opt/fusegw
COPY docker/entrypoint /usr/local/bin/fusegw-container
RUN ln -s /opt/fusegw/bin/fusegw /usr/local/bin/fusegw \
    && install -d -m 0700 /var/lib/fusegw /var/cache/fusegw \
    && install -d /etc/fusegw /mnt
EXPOSE 445 2049 20048
VOLUME ["/var/lib/fusegw", "/var/cache/fusegw"]
# Runs as root; without shares the two capabilities named above are all it needs, for mount(2), allow_other and the
# kernel's read-ahead. Every other command may run as any user that can read the state directory.
# tini is process 1: it hands SIGTERM on and buries what the gateway leaves behind.
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/fusegw-container"]
CMD ["mount"]
