package history

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// A spool keeps rows of the log on the local disk while the database server is away, so that
// telemetry goes on to be taken and acknowledged. Its file has a record a row, after what
// went before is on disk: length of the rest and its CRC-32C (4 bytes each, little endian),
// then first position, number of entries, times of receipt of the first and the last (8 bytes
// each) and the body as in the table intake. A record that was cut off by a crash was never
// acknowledged. Rows that the database has too, since nobody knew whether their commit had
// come through, are known by their positions.
type spool struct {
	f     *os.File
	limit int64
	size  int64 // of the file
	read  int64 // up to where it is in the database again
}

const (
	// SpoolName is the file in the directory of Config.Spool.
	SpoolName  = "spool.log"
	spoolFrame = 8
	spoolHead  = 32
	// spoolAtOnce is how much goes back into the database in one transaction.
	spoolAtOnce = 8 << 20
	// probeEvery is how often the server is looked for while it is away.
	probeEvery = time.Second
)

// errSpoolFull says that no more is taken until the server is back.
var errSpoolFull = errors.New("the room for telemetry on the local disk is used up")

func openSpool(dir string, limit int64) (*spool, error) {
	path := filepath.Join(dir, SpoolName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the file %s cannot be opened for writing", path)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at %s: %w", path, err), f.Close())
	}
	return &spool{f: f, limit: limit, size: end}, nil
}

// any says whether there is something that the database does not have.
func (s *spool) any() bool { return s != nil && s.size > s.read }

// add appends rows and returns when they are on disk. On an error none of them is there.
func (s *spool) add(rows []*batch, bodies []prepared) error {
	var buf []byte
	for i, b := range rows {
		at := len(buf)
		buf = append(buf, make([]byte, spoolFrame)...)
		for _, v := range []int64{int64(b.first), int64(b.n), b.received, b.prev} {
			buf = binary.LittleEndian.AppendUint64(buf, uint64(v))
		}
		buf = append(buf, bodies[i]...)
		rest := buf[at+spoolFrame:]
		binary.LittleEndian.PutUint32(buf[at:], uint32(len(rest)))
		binary.LittleEndian.PutUint32(buf[at+4:], crc32.Checksum(rest, crc32.MakeTable(crc32.Castagnoli)))
	}
	if s.size+int64(len(buf)) > s.limit {
		return errSpoolFull
	}
	if _, err := s.f.WriteAt(buf, s.size); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	s.size += int64(len(buf))
	return nil
}

// next reads some rows behind those that the database has again, and says where they end. A
// record that is cut off or broken ends the file.
func (s *spool) next() (rows []packedRow, end int64, err error) {
	r := bufio.NewReader(io.NewSectionReader(s.f, s.read, s.size-s.read))
	end = s.read
	for size := 0; size < spoolAtOnce && len(rows) < rowsPerCommit; {
		var frame [spoolFrame]byte
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return rows, end, atEnd(err)
		}
		n := binary.LittleEndian.Uint32(frame[:])
		if n < spoolHead || int64(n) > s.size-end {
			return rows, end, nil
		}
		rest := make([]byte, n)
		if _, err := io.ReadFull(r, rest); err != nil {
			return rows, end, atEnd(err)
		}
		if crc32.Checksum(rest, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(frame[4:]) {
			return rows, end, nil
		}
		at := func(i int) int64 { return int64(binary.LittleEndian.Uint64(rest[8*i:])) }
		rows = append(rows, packedRow{id: at(0), n: at(1), received: at(2), last: at(3), body: rest[spoolHead:]})
		end += spoolFrame + int64(n)
		size += int(n)
	}
	return rows, end, nil
}

// atEnd takes the end of the file for no fault.
func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// done says that what was read up to end is in the database. When that is all, the file is
// begun anew.
func (s *spool) done(end int64, all bool) error {
	if s.read = end; !all {
		return nil
	}
	if err := s.f.Truncate(0); err != nil {
		return err
	}
	s.size, s.read = 0, 0
	return nil
}

// unspool brings what the spool has into the database, in order. take gets each row that the
// database did not have, after it was committed.
func (l *Log) unspool(ctx context.Context, take func(packedRow) error) error {
	s := l.spool
	var have int64
	if err := l.st.Reader().QueryRowContext(ctx, `SELECT COALESCE(MAX(id + n), 1) FROM intake`).Scan(&have); err != nil {
		return fmt.Errorf("read the end of the intake log: %w", err)
	}
	for s.any() {
		rows, end, err := s.next()
		if err != nil {
			return fmt.Errorf("read %s: %w", s.f.Name(), err)
		}
		if len(rows) == 0 { // what is left was cut off
			return s.done(s.size, true)
		}
		err = l.st.Update(ctx, func(tx *store.Tx) error {
			for i := range rows {
				if r := &rows[i]; r.id >= have {
					if _, err := tx.Exec(ctx, insertRow, r.id, r.n, r.received, r.last, r.body); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if unknown, ok := errors.AsType[*store.UnknownOutcome](err); ok {
			var committed bool
			if committed, err = l.st.Outcome(ctx, unknown); err == nil && !committed {
				continue
			}
		}
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := take(r); err != nil {
				return err
			}
		}
		l.stats.Unspooled.Add(int64(len(rows)))
		if err := s.done(end, end == s.size); err != nil {
			return fmt.Errorf("empty %s: %w", s.f.Name(), err)
		}
	}
	return nil
}

// away is the error while rows are on the local disk alone.
func (l *Log) away(cause error) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", cause,
		"the database server is away; telemetry is kept on the local disk meanwhile (%d of %d MiB)", l.stats.Spooled.Load()>>20, l.cfg.SpoolBytes>>20)
}

// probe looks for the server while there is something in the spool, and says when it is back.
func (l *Log) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !l.gone.Load() {
			continue
		}
		if err := l.st.Update(ctx, func(*store.Tx) error { return nil }); err == nil {
			l.gone.Store(false)
			l.mu.Lock()
			l.due = time.Now()
			l.mu.Unlock()
			nudge(l.wake)
		}
	}
}
