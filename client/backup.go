package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"time"

	"signalbox"
)

// BackupOptions are what Backup may be told.
type BackupOptions struct {
	// WithKey asks for the key file of the data directory to be in the backup. A hub gives it
	// out on its own machine only.
	WithKey bool
	// Progress hears how many of all rows have come; nil: nobody does.
	Progress func(done, total int64)
}

// BackupTable counts the rows of one table in a backup.
type BackupTable struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// BackupReport says what is in a backup.
type BackupReport struct {
	Made     time.Time          `json:"made"`     // the moment of which it is
	MadeBy   string             `json:"made_by"`  // version of the hub
	Database string             `json:"database"` // the kind of database it is from
	Schema   int64              `json:"schema"`   // version of the tables
	Position signalbox.Position `json:"position"` // the log's last position
	Tables   []BackupTable      `json:"tables"`
	Rows     int64              `json:"rows"`
	Bytes    int64              `json:"bytes"` // of the whole backup
	WithKey  bool               `json:"with_key"`
}

// Backup copies a backup of everything in the hub's database to w, as it comes. A nil error
// means that it is whole and that its checksum is right. After an error what w has got is no
// backup: it was broken off (KindUnavailable, code backup_cut) or w failed.
func (h *Hub) Backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupReport, error) {
	query := url.Values{}
	if o.WithKey {
		query.Set("key", "true")
	}
	resp, err := h.open(ctx, http.MethodGet, "/backup", query, "", nil)
	if err != nil {
		return BackupReport{}, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is of no use
	b := &backupCopy{from: resp.Body, to: w, sum: sha256.New(), progress: o.Progress}
	if b.progress == nil {
		b.progress = func(int64, int64) {}
	}
	report, err := b.copy()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return report, err
}

// The frames of a backup, see internal/store/backup.go for the whole format.
const (
	backupMagic   = "\x89SBXBAK\n"
	backupFormat  = 1
	backupHead    = 9
	backupText    = 1 << 20
	backupLargest = 1 << 30
)

// backupCopy copies a backup and follows its frames.
type backupCopy struct {
	from     io.Reader
	to       io.Writer
	sum      hash.Hash
	progress func(done, total int64)
	report   BackupReport
	total    int64
	rows     int64
	buf      bytes.Buffer
}

func (b *backupCopy) copy() (BackupReport, error) {
	magic, err := b.take(int64(len(backupMagic) + 4))
	if err != nil {
		return b.report, err
	}
	if string(magic[:len(backupMagic)]) != backupMagic {
		return b.report, signalbox.Errorf(signalbox.KindInternal, "not_signalbox", "the answer is no backup as a Signalbox makes it")
	}
	if v := binary.BigEndian.Uint32(magic[len(backupMagic):]); v != backupFormat {
		return b.report, signalbox.Errorf(signalbox.KindConflict, "backup_newer", "the hub makes backups of format %d; this program knows %d: use a newer one", v, backupFormat)
	}
	for {
		head, err := b.take(backupHead)
		if err != nil {
			return b.report, err
		}
		kind, rows, length := head[0], binary.BigEndian.Uint32(head[1:]), int64(binary.BigEndian.Uint32(head[5:]))
		switch kind {
		case 'E':
			return b.report, b.end(length)
		case 'H':
			err = b.header(length)
		default:
			if length > backupLargest {
				err = b.wrong()
				break
			}
			if _, err = io.CopyN(io.MultiWriter(b.sum, writeFault{b.to}), b.from, length); err != nil {
				err = broken(err)
			}
			b.report.Bytes += length
		}
		if err != nil {
			return b.report, err
		}
		b.rows += int64(rows)
		b.progress(b.rows, b.total)
	}
}

// take copies n bytes and gives them; they are good until the next call.
func (b *backupCopy) take(n int64) ([]byte, error) {
	b.buf.Reset()
	if _, err := io.CopyN(&b.buf, b.from, n); err != nil {
		return nil, broken(err)
	}
	b.report.Bytes += n
	_, _ = b.sum.Write(b.buf.Bytes()) // never fails
	if _, err := b.to.Write(b.buf.Bytes()); err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	return b.buf.Bytes(), nil
}

func (b *backupCopy) header(length int64) error {
	if length > backupText {
		return b.wrong()
	}
	text, err := b.take(length)
	if err != nil {
		return err
	}
	h := struct {
		*BackupReport
		Tables int `json:"tables"` // a number here
	}{BackupReport: &b.report}
	size := b.report.Bytes
	if err := json.Unmarshal(text, &h); err != nil {
		return b.wrong()
	}
	b.total, b.report.Bytes = b.report.Rows, size
	return nil
}

// end takes the last frame, whose sum is over all before it.
func (b *backupCopy) end(length int64) error {
	if length < sha256.Size || length > backupText {
		return b.wrong()
	}
	text, err := b.take(length - sha256.Size)
	if err != nil {
		return err
	}
	var end struct {
		Tables []BackupTable `json:"tables"`
		Rows   int64         `json:"rows"`
	}
	if err := json.Unmarshal(text, &end); err != nil || end.Rows != b.rows || end.Rows != b.total {
		return b.wrong()
	}
	want := b.sum.Sum(nil)
	have, err := b.take(sha256.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return b.wrong()
	}
	if _, err := io.CopyN(io.Discard, b.from, 1); err == nil {
		return b.wrong()
	}
	b.report.Tables, b.report.Rows = end.Tables, end.Rows
	return nil
}

func (b *backupCopy) wrong() error {
	return signalbox.Errorf(signalbox.KindUnavailable, "backup_damaged", "the backup was damaged on its way here, before its byte %d", b.report.Bytes)
}

// broken explains why a backup stops.
func broken(err error) error {
	if e, ok := errors.AsType[writeError](err); ok {
		return fmt.Errorf("write the backup: %w", e.err)
	}
	return signalbox.Wrap(signalbox.KindUnavailable, "backup_cut", err, "the hub broke the backup off; its log may say why")
}

// writeFault marks the errors of a writer, to tell them from those of the reader.
type writeFault struct{ io.Writer }

type writeError struct{ err error }

func (e writeError) Error() string { return e.err.Error() }

// Write implements io.Writer.
func (w writeFault) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		err = writeError{err}
	}
	return n, err
}
