-- +goose Up
-- 1: the device was seen without being known, and waits for a person to approve it.
ALTER TABLE device ADD COLUMN {{.IfNotExists}} pending {{.Int}} NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE device DROP COLUMN pending;
