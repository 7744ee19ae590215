package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"signalbox"
)

// Secret is a device's hashed secret; Kind belongs to package auth.
type Secret struct {
	Kind uint8
	Sum  [32]byte
}

// Device is a registry entry as stored.
type Device struct {
	ID       signalbox.DeviceID
	Name     string
	Type     string
	Secret   Secret
	Disabled bool
	// Pending devices were seen without being known, and wait for a person to approve them.
	Pending   bool
	CreatedAt time.Time
}

// InsertDevice stores d under a new ID and returns it. A taken name gives KindConflict.
func (tx *Tx) InsertDevice(ctx context.Context, d Device) (signalbox.DeviceID, error) {
	var id int64
	err := tx.QueryRow(ctx, `INSERT INTO device (name, type, secret_kind, secret, disabled, created_ms, pending)
		SELECT ?,?,?,?,?,?,? WHERE NOT EXISTS (SELECT 1 FROM device WHERE name = ?) RETURNING id`,
		[]any{d.Name, d.Type, d.Secret.Kind, d.Secret.Sum[:], d.Disabled, ms(d.CreatedAt), d.Pending, d.Name}, &id)
	if err != nil {
		return 0, inserted("device", d.Name, err)
	}
	return signalbox.DeviceID(id), nil //nolint:gosec // counted from 1, one a device
}

// inserted explains why a row with a name of its own was not inserted.
func inserted(what, name string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return signalbox.Errorf(signalbox.KindConflict, "name_taken", "a %s named %q exists already", what, name)
	}
	return fmt.Errorf("insert %s: %w", what, err)
}

// UpdateDevice overwrites type, secret and the marks disabled and pending of the device d.ID.
func (tx *Tx) UpdateDevice(ctx context.Context, d Device) error {
	_, err := tx.Exec(ctx, `UPDATE device SET type = ?, secret_kind = ?, secret = ?, disabled = ?, pending = ? WHERE id = ?`,
		d.Type, d.Secret.Kind, d.Secret.Sum[:], d.Disabled, d.Pending, d.ID)
	return wrap("update device", err)
}

// DeleteDevice removes a device, its state and its commands. Its log entries stay until
// they age out, out of reach because the ID is never used again.
func (tx *Tx) DeleteDevice(ctx context.Context, id signalbox.DeviceID) error {
	_, err := tx.Exec(ctx, `DELETE FROM device WHERE id = ?`, id)
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM device_state WHERE device = ?`, id)
	}
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM command WHERE device = ?`, id)
	}
	return wrap("delete device", err)
}

// DeviceState is a device's latest telemetry and presence as of a log position.
type DeviceState struct {
	Device         signalbox.DeviceID
	Position       signalbox.Position
	ReceivedMicros int64
	TimeMicros     int64
	Boot, Seq      uint64
	Body           []byte
	Online         bool
	SinceMicros    int64
	Address        string
}

// PutDeviceState stores a snapshot of one device's state; nothing when the device is gone.
func (tx *Tx) PutDeviceState(ctx context.Context, s *DeviceState) error {
	// The databases' integers are signed: the unsigned marks travel as the same 64 bits.
	_, err := tx.Exec(ctx, `INSERT INTO device_state (device, position, received_us, time_us, boot, seq, body, online, since_us, address)
		SELECT id,?,?,?,?,?,?,?,?,? FROM device WHERE id = ?
		ON CONFLICT (device) DO UPDATE SET position = excluded.position, received_us = excluded.received_us, time_us = excluded.time_us, boot = excluded.boot,
		seq = excluded.seq, body = excluded.body, online = excluded.online, since_us = excluded.since_us, address = excluded.address`,
		int64(s.Position), s.ReceivedMicros, s.TimeMicros, int64(s.Boot), int64(s.Seq), s.Body, s.Online, s.SinceMicros, s.Address, s.Device)
	return wrap("store device state", err)
}

// Devices calls yield for each device with its stored state (nil when there is none), by ID.
func (s *Store) Devices(ctx context.Context, yield func(Device, *DeviceState) error) error {
	rows, err := s.scan.QueryContext(ctx, `SELECT d.id, d.name, d.type, d.secret_kind, d.secret, d.disabled, d.pending, d.created_ms,
		s.position, s.received_us, s.time_us, s.boot, s.seq, s.body, s.online, s.since_us, s.address
		FROM device d LEFT JOIN device_state s ON s.device = d.id ORDER BY d.id`)
	if err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		var (
			d                                      Device
			sum, body                              []byte
			created                                int64
			pos, received, at, boot, seq, sinceMcs sql.NullInt64
			online                                 sql.NullBool
			address                                sql.NullString
		)
		if err := rows.Scan(&d.ID, &d.Name, &d.Type, &d.Secret.Kind, &sum, &d.Disabled, &d.Pending, &created,
			&pos, &received, &at, &boot, &seq, &body, &online, &sinceMcs, &address); err != nil {
			return fmt.Errorf("read devices: %w", err)
		}
		copy(d.Secret.Sum[:], sum)
		d.CreatedAt = fromMs(created)
		var state *DeviceState
		if pos.Valid {
			state = &DeviceState{
				Device: d.ID, Position: signalbox.Position(pos.Int64), ReceivedMicros: received.Int64, TimeMicros: at.Int64,
				Boot: uint64(boot.Int64), Seq: uint64(seq.Int64), Body: body, Online: online.Bool, SinceMicros: sinceMcs.Int64, Address: address.String,
			}
		}
		if err := yield(d, state); err != nil {
			return err
		}
	}
	return wrap("read devices", rows.Err())
}

// SetMeta stores one small named value.
func (tx *Tx) SetMeta(ctx context.Context, name, value string) error {
	_, err := tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return wrap("store "+name, err)
}

// Meta reads a value of SetMeta; "" when it was never set.
func (s *Store) Meta(ctx context.Context, name string) (string, error) {
	var v string
	err := s.read.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = ?`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, wrap("read "+name, err)
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
