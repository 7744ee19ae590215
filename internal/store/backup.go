package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
)

// The format of a backup is one for all databases. Numbers of a fixed size are big endian.
//
//	file    = magic version header section* [key] end
//	magic   = 89 'S' 'B' 'X' 'B' 'A' 'K' 0A
//	version = 4 bytes, 1; a reader refuses what is larger than it knows
//	section = table rows*
//
// All that follows the version is in frames:
//
//	frame   = kind(1 byte) rows(4 bytes) length(4 bytes) payload(length bytes)
//
//	'H' header  JSON, backupHeader: when and of what, and how many rows will come
//	'T' table   JSON, backupTable: name, columns in their order, the number of rows in the
//	            section, and the next number of a key that the database counts up
//	'R' rows    one zstd frame with a checksum of its own; rows says how many rows are in it.
//	            Decompressed it is row after row, about 1 MiB, more only if a single row is
//	            larger (maxBlock at most). A row is its columns' values in order:
//	              00                      NULL
//	              01 zigzag varint        int
//	              02 uvarint, UTF-8       text
//	              03 uvarint, bytes       bytes
//	'K' key     the key file of the data directory, as it is; only where it was asked for
//	'E' end     JSON, backupEnd: the rows of each table; then 32 bytes: the SHA-256 of all that
//	            comes before them, from the magic on. Nothing follows.
//
// rows is 0 in frames of another kind than 'R'. Whoever copies a backup can thus follow it,
// and tell whether it is whole, without decompressing anything; package client does.
//
// Sections come in the order of the list contents, the rows of each in that of their key, so
// that two backups of the same contents have the same sections, whatever the database.
const (
	backupMagic  = "\x89SBXBAK\n"
	backupFormat = 1

	frameHeader = 'H'
	frameTable  = 'T'
	frameRows   = 'R'
	frameKey    = 'K'
	frameEnd    = 'E'

	// frameHead is the length of what precedes a payload.
	frameHead = 9
	// blockBytes is the size from which rows are closed to a frame, and maxBlock the largest
	// that is read, decompressed; maxText bounds frames in JSON, and maxKey the key file.
	blockBytes = 1 << 20
	maxBlock   = 256 << 20
	maxText    = 1 << 20
	maxKey     = 4 << 10
	// maxBlockRows bounds the rows in a frame.
	maxBlockRows = 1 << 16
)

// The tags of values.
const (
	tagNull = iota
	tagInt
	tagText
	tagBytes
)

// backupHeader says what a backup is of.
type backupHeader struct {
	MadeBy   string             `json:"made_by"`  // version of the program
	Made     time.Time          `json:"made"`     // when the snapshot was taken
	Database string             `json:"database"` // kind, for people
	Schema   int64              `json:"schema"`   // version of the tables
	Position signalbox.Position `json:"position"` // last of the log
	Rows     int64              `json:"rows"`     // in all sections
	Tables   int                `json:"tables"`   // sections
	WithKey  bool               `json:"with_key"`
}

// backupTable begins a section.
type backupTable struct {
	Name    string   `json:"name"`
	Columns []column `json:"columns"`
	Rows    int64    `json:"rows"`
	Next    int64    `json:"next,omitempty"` // key of the next row, where the database counts; 0 elsewhere
}

// backupEnd is what was written.
type backupEnd struct {
	Tables []BackupTable `json:"tables"`
	Rows   int64         `json:"rows"`
}

// BackupTable counts the rows of one table in a backup.
type BackupTable struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// BackupReport says what is in a backup.
type BackupReport struct {
	Made     time.Time          `json:"made"`     // when the snapshot was taken
	MadeBy   string             `json:"made_by"`  // version of the program that made it
	Database string             `json:"database"` // the kind of database it is from
	Schema   int64              `json:"schema"`   // version of the tables
	Position signalbox.Position `json:"position"` // the log's last position
	Tables   []BackupTable      `json:"tables"`
	Rows     int64              `json:"rows"`
	Bytes    int64              `json:"bytes"` // of the whole file
	WithKey  bool               `json:"with_key"`
}

func (h *backupHeader) report() BackupReport {
	return BackupReport{Made: h.Made, MadeBy: h.MadeBy, Database: h.Database, Schema: h.Schema, Position: h.Position, WithKey: h.WithKey}
}

// BackupOptions are what Backup may be told.
type BackupOptions struct {
	// MadeBy is the version of this program.
	MadeBy string
	// Key is the content of the data directory's key file, to be in the backup; nil: it is not.
	Key []byte
}

// Backup writes all contents of the database to w, as of one moment, while it is used: all
// is read in one read-only transaction on a connection of its own. Memory is bounded: a few
// MiB and a few times the largest value. w may be slow, but as long as it takes the database
// keeps what is deleted and changed meanwhile (SQLite: its write-ahead file grows).
//
// After an error, of w too, what w has got is no whole backup, and its readers notice.
func (s *Store) Backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupReport, error) {
	if len(o.Key) > maxKey {
		return BackupReport{}, fmt.Errorf("the key file has %d bytes, which is more than the %d that are allowed", len(o.Key), maxKey)
	}
	report, err := s.backup(ctx, w, o)
	if err != nil {
		if ctx.Err() != nil { // drivers have words of their own for that
			err = ctx.Err()
		}
		return BackupReport{}, s.explain(err)
	}
	return report, nil
}

func (s *Store) backup(ctx context.Context, w io.Writer, o BackupOptions) (report BackupReport, err error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, snap.close()) }()
	schema, err := newestVersion()
	if err != nil {
		return report, err
	}
	return snap.write(ctx, w, contents(), schema, o)
}

// write writes a backup of these tables.
func (n *snapshot) write(ctx context.Context, w io.Writer, list []table, schema int64, o BackupOptions) (BackupReport, error) {
	header := backupHeader{
		MadeBy: o.MadeBy, Made: n.made.UTC().Truncate(time.Millisecond), Database: n.kind, Schema: schema, Tables: len(list), WithKey: o.Key != nil,
	}
	if err := n.conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(id + n), 1) - 1 FROM (SELECT id, n FROM intake ORDER BY id DESC LIMIT 1) AS last`).Scan(&header.Position); err != nil {
		return BackupReport{}, fmt.Errorf("read the end of the log: %w", err)
	}
	sections := make([]backupTable, len(list))
	for i := range list {
		var err error
		if sections[i], err = n.section(ctx, &list[i]); err != nil {
			return BackupReport{}, fmt.Errorf("count the rows of table %s: %w", list[i].name, err)
		}
		header.Rows += sections[i].Rows
	}
	out, err := newFrameWriter(w)
	if err != nil {
		return BackupReport{}, err
	}
	out.json(frameHeader, &header)
	var end backupEnd
	for i := range list {
		out.json(frameTable, &sections[i])
		rows, err := n.rows(ctx, out, &list[i])
		if err != nil {
			return BackupReport{}, fmt.Errorf("back up table %s: %w", list[i].name, err)
		}
		end.Tables = append(end.Tables, BackupTable{list[i].name, rows})
		end.Rows += rows
	}
	if o.Key != nil {
		out.frame(frameKey, 0, o.Key)
	}
	out.end(&end)
	report := header.report()
	report.Tables, report.Rows, report.Bytes = end.Tables, end.Rows, out.written
	return report, out.err
}

// section describes a table as it is in the snapshot.
func (n *snapshot) section(ctx context.Context, t *table) (backupTable, error) {
	b := backupTable{Name: t.name, Columns: t.columns}
	if err := n.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+t.name+t.where()).Scan(&b.Rows); err != nil {
		return b, err
	}
	if !t.counted {
		return b, nil
	}
	err := n.conn.QueryRowContext(ctx, n.nextKey, t.name).Scan(&b.Next)
	return b, err
}

func (t *table) where() string {
	if t.without == "" {
		return ""
	}
	return " WHERE " + t.without
}

// rows writes the rows of a table.
func (n *snapshot) rows(ctx context.Context, out *frameWriter, t *table) (count int64, err error) {
	names := make([]string, len(t.columns))
	values := make([]any, len(t.columns))
	into := make([]any, len(t.columns))
	for i := range t.columns {
		names[i], into[i] = t.columns[i].Name, &values[i]
	}
	rows, err := n.conn.QueryContext(ctx, `SELECT `+strings.Join(names, ", ")+` FROM `+t.name+t.where()+` ORDER BY `+names[0])
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return count, err
		}
		for i := range values {
			if out.raw, err = appendValue(out.raw, t.columns[i].Kind, values[i]); err != nil {
				return count, fmt.Errorf("row %d, column %s: %w", count+1, names[i], err)
			}
			values[i] = nil
		}
		count++
		if out.row(); out.err != nil {
			return count, out.err
		}
	}
	out.flush()
	return count, errors.Join(rows.Err(), out.err)
}

// appendValue adds what a driver read.
func appendValue(b []byte, kind columnKind, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(b, tagNull), nil
	case int64:
		if kind == intColumn {
			return binary.AppendVarint(append(b, tagInt), v), nil
		}
	case bool:
		if kind == intColumn {
			if v {
				return append(b, tagInt, 2), nil
			}
			return append(b, tagInt, 0), nil
		}
	case string:
		return appendText(b, kind, v)
	case []byte:
		return appendText(b, kind, v)
	}
	return b, fmt.Errorf("a value of %T is in a column of %s", value, kind)
}

func appendText[T string | []byte](b []byte, kind columnKind, v T) ([]byte, error) {
	switch kind {
	case textColumn:
		b = append(b, tagText)
	case bytesColumn:
		b = append(b, tagBytes)
	case intColumn:
		return b, errors.New("text is in a column of int")
	}
	return append(binary.AppendUvarint(b, uint64(len(v))), v...), nil
}

// frameWriter writes frames. The first error stays and ends its work.
type frameWriter struct {
	w       io.Writer
	sum     hash.Hash
	enc     *zstd.Encoder
	raw     []byte // rows of the frame to come
	rows    uint32
	out     []byte
	written int64
	err     error
}

func newFrameWriter(w io.Writer) (*frameWriter, error) {
	// The large values are compressed already.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	f := &frameWriter{w: w, sum: sha256.New(), enc: enc}
	f.write(binary.BigEndian.AppendUint32([]byte(backupMagic), backupFormat))
	return f, nil
}

func (f *frameWriter) write(b []byte) {
	if f.err != nil {
		return
	}
	_, _ = f.sum.Write(b) // never fails
	n, err := f.w.Write(b)
	f.written += int64(n)
	f.err = err
}

func (f *frameWriter) head(kind byte, rows uint32, length int) []byte {
	f.out = append(f.out[:0], kind)
	f.out = binary.BigEndian.AppendUint32(f.out, rows)
	return binary.BigEndian.AppendUint32(f.out, uint32(length)) //nolint:gosec // maxBlock at most
}

func (f *frameWriter) frame(kind byte, rows uint32, payload []byte) {
	f.out = append(f.head(kind, rows, len(payload)), payload...)
	f.write(f.out)
}

func (f *frameWriter) json(kind byte, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		f.err = errors.Join(f.err, err)
		return
	}
	f.frame(kind, 0, text)
}

// row ends a row in raw.
func (f *frameWriter) row() {
	f.rows++
	if len(f.raw) >= blockBytes || f.rows >= maxBlockRows {
		f.flush()
	}
}

// flush writes the rows that wait.
func (f *frameWriter) flush() {
	if f.rows == 0 || f.err != nil {
		return
	}
	if len(f.raw) > maxBlock {
		f.err = fmt.Errorf("a row has %d bytes; a backup takes %d at most", len(f.raw), maxBlock)
		return
	}
	f.out = f.enc.EncodeAll(f.raw, f.head(frameRows, f.rows, 0))
	binary.BigEndian.PutUint32(f.out[frameHead-4:], uint32(len(f.out)-frameHead)) //nolint:gosec // maxBlock at most, and little more
	f.write(f.out)
	f.raw, f.rows = f.raw[:0], 0
	if cap(f.raw) > 4*blockBytes { // one large value is not to be kept for all others
		f.raw, f.out = nil, nil
	}
}

// end writes the last frame.
func (f *frameWriter) end(end *backupEnd) {
	text, err := json.Marshal(end)
	if err != nil {
		f.err = errors.Join(f.err, err)
		return
	}
	f.out = append(f.head(frameEnd, 0, len(text)+sha256.Size), text...)
	f.write(f.out)
	f.write(f.sum.Sum(nil))
}

// snapshot is the database as of one moment.
type snapshot struct {
	conn *sql.Conn
	made time.Time
	kind string
	// nextKey asks for the next number of a counted key, of the table that is its value.
	nextKey string
	close   func() error
}

// snapshot opens a connection of its own and begins a transaction there that only reads.
func (s *Store) snapshot(ctx context.Context) (_ *snapshot, err error) {
	n := &snapshot{}
	var (
		db    *sql.DB
		begin []string
	)
	switch e := s.engine.(type) {
	case *lite:
		n.kind, n.nextKey = "SQLite", `SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = ?), 0) + 1`
		begin = []string{"BEGIN"}
		db, err = sql.Open("sqlite", e.dsn(scanCache, busyWait, "query_only(1)"))
	case *server:
		var c *connector
		if c, err = e.d.connector(false); err != nil {
			return nil, err
		}
		db = sql.OpenDB(c)
		if e.to.postgres() {
			n.kind, n.nextKey = "PostgreSQL", `SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence(?, 'id')::regclass), 0) + 1`
			// In the order of their keys, and from the first row on, without a sort of all of them.
			begin = []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET LOCAL enable_sort = off"}
			break
		}
		n.kind, n.nextKey = "MariaDB", `SELECT COALESCE(AUTO_INCREMENT, 1) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?`
		begin = []string{"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"}
	}
	if err != nil {
		return nil, err
	}
	n.close = db.Close
	db.SetMaxOpenConns(1)
	if n.conn, err = db.Conn(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	// Closing the connection, for good, ends the transaction.
	n.close = func() error { return errors.Join(discard(n.conn), db.Close()) }
	for _, query := range begin {
		if _, err := n.conn.ExecContext(ctx, query); err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	n.made = time.Now()
	// The first read is what fixes the moment.
	var one int
	if err := n.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM meta WHERE name = ''`).Scan(&one); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}
