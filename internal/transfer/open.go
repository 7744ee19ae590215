package transfer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"signalbox"
)

// ReadOptions say how a file is to be read; the zero value finds out by itself.
type ReadOptions struct {
	// Format is what the file is; empty: what it looks like.
	Format Format
	// Device is whose the rows are that name no device.
	Device string
	// TimeColumn is the column of times in CSV and in a dump's table; empty: time.
	TimeColumn string
	// Zone is where times without a zone are from; nil: the machine's.
	Zone *time.Location
	// Table is the table of a dump that is wanted, with or without its database in front;
	// empty: temp. Field is its column of values and their name; empty: temp.
	Table, Field string
	// Dir is where temporary files go; empty: the system's place for them.
	Dir string
}

// Reader gives the rows of a file.
type Reader interface {
	// Next fills row, whose members stay valid. io.EOF is the end, a *Refusal a row that
	// cannot be taken, and any other error ends the reading.
	Next(row *Row) error
}

// Source is an open file of telemetry.
type Source struct {
	Reader
	Format Format
	clock  *clock
	close  func() error
}

// Close lets go of temporary files.
func (s *Source) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// Zone is the zone of times that name none, "" when there were no such times. Shifts are the
// changes of its clocks that made times doubtful. Both are known when all rows were read.
func (s *Source) Zone() string {
	if !s.clock.used {
		return ""
	}
	return s.clock.zone.String()
}

// Shifts are the changes of the zone's clocks that made times doubtful.
func (s *Source) Shifts() []Shift { return s.clock.doubtful() }

// headSize is how much of a file is looked at to know what it is, in bytes.
const headSize = 64 << 10

const (
	gzipMagic    = "\x1f\x8b"
	parquetMagic = "PAR1"
	byteMark     = "\xef\xbb\xbf"
)

// Open begins to read a file, plain or compressed by gzip.
func Open(in io.Reader, o ReadOptions) (*Source, error) {
	b, err := unpacked(in)
	if err != nil {
		return nil, err
	}
	head, err := b.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, brokenGzip(err)
	}
	if len(head) == 0 {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "empty_file", "the file is empty")
	}
	format := o.Format
	if format == "" {
		format = guess(head)
	}
	if format != Parquet {
		if bytes.HasPrefix(head, []byte(byteMark)) {
			_, _ = b.Discard(len(byteMark)) // it is there
			head = head[len(byteMark):]
		}
		if why := noText(head); why != "" {
			return nil, fault(1, "%s", why)
		}
	}
	s := &Source{Format: format, clock: newClock(o.Zone)}
	in, err = gzipFaults{b}, nil
	switch format {
	case NDJSON:
		s.Reader = &ndjsonReader{lines: lineReader{r: bufio.NewReaderSize(in, 64<<10)}, clock: s.clock, device: o.Device}
	case CSV:
		s.Reader, err = newCSVReader(in, head, s.clock, o.Device, o.TimeColumn)
	case Dump:
		s.Reader, err = newDumpReader(in, s.clock, &o)
	case Parquet:
		var r *parquetReader
		if r, err = openParquet(in, s.clock, &o); err == nil {
			s.Reader, s.close = r, r.close
		}
	default:
		err = signalbox.Errorf(signalbox.KindInvalid, "invalid_format", "the format is %.100q; allowed are csv, ndjson, parquet and dump", string(format))
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// unpacked undoes gzip where it is.
func unpacked(in io.Reader) (*bufio.Reader, error) {
	b := bufio.NewReaderSize(in, headSize)
	if head, err := b.Peek(len(gzipMagic)); err != nil || string(head) != gzipMagic {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, brokenGzip(err)
	}
	return bufio.NewReaderSize(z, headSize), nil
}

// gzipFaults words what is wrong with a compressed file.
type gzipFaults struct{ r io.Reader }

func (g gzipFaults) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = brokenGzip(err)
	}
	return n, err
}

func brokenGzip(err error) error {
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || strings.HasPrefix(err.Error(), "flate: ") {
		return signalbox.Wrap(signalbox.KindInvalid, "invalid_gzip", err, "the compressed file is broken (%s); nothing was imported", err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return signalbox.Wrap(signalbox.KindInvalid, "cut_off", err, "the file ends in the middle; nothing was imported")
	}
	return err
}

// noText says why the beginning of a file is no text, "" when it is.
func noText(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return "the file is text in UTF-16; save it as UTF-8"
	case bytes.IndexByte(head, 0) >= 0:
		return "the file is neither text nor Parquet"
	default:
		return ""
	}
}

// guess says what a file is by its beginning.
func guess(head []byte) Format {
	if bytes.HasPrefix(head, []byte(parquetMagic)) {
		return Parquet
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte(byteMark)), " \t\r\n")
	switch {
	case len(text) > 0 && text[0] == '{':
		return NDJSON
	case likeDump(text):
		return Dump
	default:
		return CSV
	}
}

// likeDump says whether a text begins as SQL does.
func likeDump(text []byte) bool {
	if bytes.HasPrefix(text, []byte("--")) || bytes.HasPrefix(text, []byte("/*")) {
		return true
	}
	word := text[:min(len(text), 16)]
	end := bytes.IndexAny(word, " \t\r\n")
	if end < 0 {
		return false
	}
	switch strings.ToUpper(string(word[:end])) {
	case "INSERT", "REPLACE", "CREATE", "DROP", "LOCK", "SET", "USE", "START", "BEGIN":
		return true
	default:
		return false
	}
}

// Telemetry says whether a file that begins with head, which may be compressed, is
// telemetry: a table, dump or list with times, and no list of devices.
func Telemetry(head []byte, o ReadOptions) bool {
	if bytes.HasPrefix(head, []byte(gzipMagic)) {
		z, err := gzip.NewReader(bytes.NewReader(head))
		if err != nil {
			return false
		}
		plain := make([]byte, headSize)
		n, _ := io.ReadFull(z, plain) // the head ends in the middle
		head = plain[:n]
	}
	switch guess(head) {
	case Parquet, Dump:
		return true
	case NDJSON:
		return likeNDJSON(bytes.TrimPrefix(head, []byte(byteMark)))
	default:
		return likeCSV(bytes.TrimPrefix(head, []byte(byteMark)), &o)
	}
}

// HeadSize is how much of a file Telemetry wants to see, in bytes.
const HeadSize = headSize

// tempFile makes a file that is gone when it is closed, or the process ends.
func tempFile(dir string) (f *os.File, remove func() error, err error) {
	f, err = os.CreateTemp(dir, "signalbox-transfer-*")
	if err != nil {
		return nil, nil, signalbox.Wrap(signalbox.KindUnavailable, "no_space", err, "a temporary file for the import cannot be made")
	}
	if os.Remove(f.Name()) == nil {
		return f, f.Close, nil
	}
	// Some systems do not remove open files.
	return f, func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }, nil
}

// noSpace is the error for a temporary file that cannot be written.
func noSpace(err error) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "no_space", err, "the temporary files of the import cannot be written; nothing was imported")
}
