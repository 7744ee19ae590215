package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/pressly/goose/v3"

	"signalbox"
)

// VerifyBackup reads a backup to its end and says what is in it. A nil error means that it is
// whole and undamaged and that this program can restore it. progress, which may be nil, hears
// how many of all rows were read.
//
// Errors. What is no backup, was broken off or damaged gives KindInvalid (codes not_a_backup,
// backup_cut, backup_damaged), what a newer Signalbox made KindConflict (backup_newer).
func VerifyBackup(ctx context.Context, r io.Reader, progress func(done, total int64)) (BackupReport, error) {
	return unpack(ctx, r, nil, progress)
}

// A receiver takes a backup apart. What it is given it must not keep.
type receiver interface {
	// section is told of each table before its rows, and when it is over with end.
	section(ctx context.Context, t *backupTable) error
	rows(ctx context.Context, t *backupTable, values []any) error
	end(ctx context.Context, t *backupTable) error
	key(text []byte) error
}

// verifier is the receiver that keeps nothing.
type verifier struct{}

func (verifier) section(context.Context, *backupTable) error     { return nil }
func (verifier) rows(context.Context, *backupTable, []any) error { return nil }
func (verifier) end(context.Context, *backupTable) error         { return nil }
func (verifier) key([]byte) error                                { return nil }

// unpacker reads a backup.
type unpacker struct {
	frames   frameReader
	to       receiver
	progress func(done, total int64)
	newest   int64

	header   *backupHeader
	table    *backupTable // the section that is being read
	rows     int64        // of it
	report   BackupReport
	values   []any
	hasKey   bool
	contents []table // what a backup of this version has; nil for one of an older
	name     *regexp.Regexp
}

// unpack reads a backup and hands it to a receiver, if there is one, whose errors end it.
func unpack(ctx context.Context, r io.Reader, to receiver, progress func(done, total int64)) (BackupReport, error) {
	newest, err := newestVersion()
	if err != nil {
		return BackupReport{}, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock))
	if err != nil {
		return BackupReport{}, fmt.Errorf("zstd: %w", err)
	}
	defer dec.Close()
	u := &unpacker{
		frames: frameReader{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New(), dec: dec}, to: to, progress: progress, newest: newest,
		name: regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`),
	}
	if u.to == nil {
		u.to = verifier{}
	}
	if u.progress == nil {
		u.progress = func(int64, int64) {}
	}
	if err := u.frames.begin(); err != nil {
		return BackupReport{}, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return BackupReport{}, err
		}
		kind, rows, err := u.frames.next()
		if err != nil {
			return BackupReport{}, err
		}
		if kind == frameEnd {
			err := u.end(ctx)
			return u.report, err
		}
		if err := u.frame(ctx, kind, rows); err != nil {
			return BackupReport{}, err
		}
	}
}

// frame takes one frame but the last.
func (u *unpacker) frame(ctx context.Context, kind byte, rows uint32) error {
	f := &u.frames
	if (kind == frameHeader) != (u.header == nil) {
		return f.damaged("its header is not where it belongs")
	}
	if rows != 0 && kind != frameRows {
		return f.damaged("there are rows where none belong")
	}
	if u.hasKey {
		return f.damaged("something stands behind the key")
	}
	switch kind {
	case frameHeader:
		return u.begin()
	case frameTable:
		return u.section(ctx)
	case frameRows:
		return u.block(ctx, rows)
	case frameKey:
		if err := u.closeSection(ctx); err != nil {
			return err
		}
		u.hasKey = true
		return u.to.key(f.payload)
	default:
		return f.damaged("there is a part of an unknown kind")
	}
}

func (u *unpacker) begin() error {
	u.header = &backupHeader{}
	h := u.header
	if err := u.frames.json(u.frames.payload, h); err != nil {
		return err
	}
	if h.Schema > u.newest {
		return signalbox.Errorf(signalbox.KindConflict, "backup_newer",
			"the backup was made by a newer Signalbox (%s): its tables are of version %d, and this one knows versions up to %d", h.MadeBy, h.Schema, u.newest)
	}
	if h.Schema < 1 || h.Tables < 1 || h.Tables > 1000 || h.Rows < 0 {
		return u.frames.damaged("its header makes no sense")
	}
	if h.Schema == u.newest {
		u.contents = contents()
	}
	u.report = h.report()
	u.progress(0, h.Rows)
	return nil
}

// section begins the next table.
func (u *unpacker) section(ctx context.Context) error {
	if err := u.closeSection(ctx); err != nil {
		return err
	}
	t := &backupTable{}
	if err := u.frames.json(u.frames.payload, t); err != nil {
		return err
	}
	if err := u.checkTable(t); err != nil {
		return err
	}
	u.table, u.rows = t, 0
	u.report.Tables = append(u.report.Tables, BackupTable{t.Name, t.Rows})
	return u.to.section(ctx, t)
}

// checkTable refuses what no Signalbox would write. The names become part of statements.
func (u *unpacker) checkTable(t *backupTable) error {
	wrong := !u.name.MatchString(t.Name) || t.Name == goose.DefaultTablename || len(t.Columns) == 0 || len(t.Columns) > 100 || t.Rows < 0 || t.Next < 0 || t.Next > 1<<62 || len(u.report.Tables) >= u.header.Tables
	for _, c := range t.Columns {
		wrong = wrong || !u.name.MatchString(c.Name) || c.Kind != intColumn && c.Kind != textColumn && c.Kind != bytesColumn
	}
	for _, other := range u.report.Tables {
		wrong = wrong || other.Name == t.Name
	}
	if u.contents != nil && !wrong {
		i := len(u.report.Tables)
		wrong = i >= len(u.contents) || u.contents[i].name != t.Name || !slices.Equal(u.contents[i].columns, t.Columns)
	}
	if wrong {
		return u.frames.damaged(fmt.Sprintf("its table %.40q is none of version %d", t.Name, u.header.Schema))
	}
	return nil
}

// closeSection is where a table must have had all its rows.
func (u *unpacker) closeSection(ctx context.Context) error {
	if u.table == nil {
		return nil
	}
	if u.rows != u.table.Rows {
		return u.frames.damaged(fmt.Sprintf("table %s has %d rows; there should be %d", u.table.Name, u.rows, u.table.Rows))
	}
	err := u.to.end(ctx, u.table)
	u.table = nil
	return err
}

// block takes a frame of rows.
func (u *unpacker) block(ctx context.Context, rows uint32) error {
	if u.table == nil || rows == 0 || rows > maxBlockRows {
		return u.frames.damaged("there are rows where none belong")
	}
	raw, err := u.frames.unpack()
	if err != nil {
		return err
	}
	clear(u.values)
	u.values = u.values[:0]
	for range rows {
		for i := range u.table.Columns {
			var value any
			if value, raw, err = cutValue(raw, u.table.Columns[i].Kind); err != nil {
				return u.frames.damaged(fmt.Sprintf("row %d of table %s: %s", u.rows+1, u.table.Name, err))
			}
			u.values = append(u.values, value)
		}
		u.rows++
	}
	if len(raw) != 0 {
		return u.frames.damaged("something stands behind the rows")
	}
	if err := u.to.rows(ctx, u.table, u.values); err != nil {
		return err
	}
	u.report.Rows += int64(rows)
	u.progress(u.report.Rows, u.header.Rows)
	return nil
}

// cutValue takes the next value off b. Bytes stay a part of b.
func cutValue(b []byte, kind columnKind) (value any, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, errors.New("values are missing")
	}
	tag, b := b[0], b[1:]
	want := map[columnKind]byte{intColumn: tagInt, textColumn: tagText, bytesColumn: tagBytes}[kind]
	switch {
	case tag == tagNull:
		return nil, b, nil
	case tag != want:
		return nil, nil, fmt.Errorf("a value has the tag %d, which is none of %s", tag, kind)
	case tag == tagInt:
		v, n := binary.Varint(b)
		if n <= 0 {
			return nil, nil, errors.New("a number does not end")
		}
		return v, b[n:], nil
	}
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return nil, nil, errors.New("a value is longer than what is there")
	}
	end := n + int(length) //nolint:gosec // len(b) at most
	if tag == tagBytes {
		return b[n:end:end], b[end:], nil
	}
	if !utf8.Valid(b[n:end]) {
		return nil, nil, errors.New("a text is no UTF-8")
	}
	return string(b[n:end]), b[end:], nil
}

// end takes the last frame.
func (u *unpacker) end(ctx context.Context) error {
	f := &u.frames
	if u.header == nil || u.hasKey != u.header.WithKey {
		return f.damaged("its parts are not those that its header names")
	}
	if err := u.closeSection(ctx); err != nil {
		return err
	}
	var end backupEnd
	if err := f.json(f.payload, &end); err != nil {
		return err
	}
	if len(u.report.Tables) != u.header.Tables || u.report.Rows != u.header.Rows || end.Rows != u.report.Rows || !slices.Equal(end.Tables, u.report.Tables) {
		return f.damaged("the rows are not as many as it says itself")
	}
	if _, err := f.r.ReadByte(); err == nil {
		return f.damaged("something stands behind its end")
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the backup: %w", err)
	}
	u.report.Bytes = f.read
	return nil
}

// frameReader reads frames.
type frameReader struct {
	r       *bufio.Reader
	sum     hash.Hash
	dec     *zstd.Decoder
	read    int64
	payload []byte // of the frame that was read last
	buf     bytes.Buffer
	raw     []byte
}

func (f *frameReader) damaged(why string) error {
	return signalbox.Errorf(signalbox.KindInvalid, "backup_damaged", "the backup is damaged before its byte %d: %s", f.read, why)
}

// broken explains an error of reading.
func (f *frameReader) broken(err error) error {
	if isEOF(err) {
		return signalbox.Errorf(signalbox.KindInvalid, "backup_cut", "the backup is not whole: it was broken off after %d bytes", f.read)
	}
	return fmt.Errorf("read the backup: %w", err)
}

// begin reads magic and version.
func (f *frameReader) begin() error {
	var b [len(backupMagic) + 4]byte
	n, err := io.ReadFull(f.r, b[:])
	f.read = int64(n)
	switch {
	case err != nil && !isEOF(err):
		return f.broken(err)
	case n == 0:
		return signalbox.Errorf(signalbox.KindInvalid, "not_a_backup", "the file is empty, so it is no backup of a Signalbox")
	case string(b[:min(n, len(backupMagic))]) != backupMagic[:min(n, len(backupMagic))]:
		return signalbox.Errorf(signalbox.KindInvalid, "not_a_backup", "the file is no backup of a Signalbox: it does not begin like one")
	case err != nil:
		return f.broken(err)
	}
	if v := binary.BigEndian.Uint32(b[len(backupMagic):]); v != backupFormat {
		return signalbox.Errorf(signalbox.KindConflict, "backup_newer",
			"the backup was made by a newer Signalbox: its format is of version %d, and this one knows versions up to %d", v, backupFormat)
	}
	_, _ = f.sum.Write(b[:]) // never fails
	return nil
}

// next reads a frame into payload; that of the last frame is without the sum, which fits.
func (f *frameReader) next() (kind byte, rows uint32, err error) {
	var head [frameHead]byte
	if err := f.full(head[:]); err != nil {
		return 0, 0, err
	}
	kind, rows = head[0], binary.BigEndian.Uint32(head[1:])
	length := int64(binary.BigEndian.Uint32(head[5:]))
	most := int64(maxText)
	switch kind {
	case frameRows:
		most = maxBlock
	case frameKey:
		most = maxKey
	}
	if length > most || kind == frameEnd && length < sha256.Size {
		return 0, 0, f.damaged("a part has an impossible length")
	}
	if kind == frameEnd {
		length -= sha256.Size
	}
	f.buf.Reset()
	if f.buf.Cap() > 4*blockBytes && length < blockBytes {
		f.buf = bytes.Buffer{}
	}
	n, err := io.CopyN(&f.buf, f.r, length) // which makes no room for what does not come
	f.read += n
	if err != nil {
		return 0, 0, f.broken(err)
	}
	f.payload = f.buf.Bytes()
	_, _ = f.sum.Write(f.payload) // never fails
	if kind != frameEnd {
		return kind, rows, nil
	}
	want := f.sum.Sum(nil)
	var have [sha256.Size]byte
	if err := f.full(have[:]); err != nil {
		return 0, 0, err
	}
	if rows != 0 || !bytes.Equal(have[:], want) {
		return 0, 0, f.damaged("its checksum is another")
	}
	return kind, 0, nil
}

// full reads all of b.
func (f *frameReader) full(b []byte) error {
	n, err := io.ReadFull(f.r, b)
	f.read += int64(n)
	if err != nil {
		return f.broken(err)
	}
	_, _ = f.sum.Write(b) // never fails
	return nil
}

func (f *frameReader) json(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return f.damaged("a description in it cannot be read")
	}
	return nil
}

// unpack decompresses the payload. The result is good until the next frame.
func (f *frameReader) unpack() ([]byte, error) {
	if cap(f.raw) > 4*blockBytes {
		f.raw = nil
	}
	raw, err := f.dec.DecodeAll(f.payload, f.raw[:0])
	if err != nil {
		return nil, f.damaged("rows cannot be decompressed")
	}
	f.raw = raw
	return raw, nil
}
