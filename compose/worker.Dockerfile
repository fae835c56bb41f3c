# A worker that keeps the views; the same image serves any other command of esper.
FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --create-home esper && install --directory --owner esper /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY esper esper
COPY streams streams
COPY schemas schemas
# torch from its index of builds for the CPU: no worker needs a GPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url "$TORCH_INDEX" torch \
    && pip install --no-cache-dir --constraint constraints.txt '.[all]'

USER esper
WORKDIR /home/esper
VOLUME /data
ENTRYPOINT ["esper"]
CMD ["worker"]
