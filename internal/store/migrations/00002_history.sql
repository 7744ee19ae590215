-- +goose Up
-- Sealed telemetry: the messages of one device in a compressed chunk (history). What is no
-- telemetry is kept under device 0.
CREATE TABLE IF NOT EXISTS chunk (
  id     {{.Int}} PRIMARY KEY, -- grows with the time at which the chunk was made
  device {{.Int}} NOT NULL,
  late   {{.Int}} NOT NULL,    -- 0: of the main sequence, whose chunks follow each other in time; 1: reaches back into it
  t0     {{.Int}} NOT NULL,    -- history time of the first and the last message, µs
  t1     {{.Int}} NOT NULL,
  p0     {{.Int}} NOT NULL,    -- smallest and largest position
  p1     {{.Int}} NOT NULL,
  n      {{.Int}} NOT NULL,    -- messages
  base   {{.Int}} NOT NULL,    -- messages of the main sequence before this chunk, since the device began
  body   {{.Blob}} NOT NULL
) {{.Table}};
-- With t1 and p1 these have all that is needed to choose chunks.
CREATE INDEX IF NOT EXISTS chunk_time ON chunk (device, late, t0, p0, t1);
CREATE INDEX IF NOT EXISTS chunk_position ON chunk (p0, p1, device);
{{- if .External}}
ALTER TABLE chunk ALTER COLUMN body SET STORAGE EXTERNAL;
{{- end}}

-- The forms of messages: what stands around the values (history).
CREATE TABLE IF NOT EXISTS shape (
  id   {{.Int}} PRIMARY KEY,
  body {{.Blob}} NOT NULL
) {{.Table}};

ALTER TABLE intake DROP COLUMN {{.IfExists}} devices;
ALTER TABLE intake DROP COLUMN {{.IfExists}} time_min_us;

-- +goose Down
DROP TABLE chunk;
DROP TABLE shape;
