package transfer

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/s2"
)

const (
	// sortBytes is how much is sorted in memory; what is more goes to disk, sorted.
	sortBytes = 32 << 20
	// refBytes is what a message takes besides its object.
	refBytes = 32
	// fanIn is how many sorted files are merged at once.
	fanIn = 64
	// blockBytes is the size of the compressed blocks of a sorted file: one is kept in memory
	// for each.
	blockBytes = 64 << 10
)

// record is a message on its way through a sorter.
type record struct {
	device int // number in the order of first appearance
	time   int64
	object []byte
}

func (r *record) compare(o *record) int {
	return cmp.Or(cmp.Compare(r.device, o.device), cmp.Compare(r.time, o.time))
}

// sorter sorts any number of messages by device and time; equal ones keep their order.
type sorter struct {
	dir   string
	limit int // sortBytes, unless a test wants less
	fan   int // fanIn, likewise
	refs  []ref
	buf   []byte
	runs  []*run
	most  int // bytes in memory at once, for tests
}

// ref is a message in buf.
type ref struct {
	device    int32
	from, end int32
	time      int64
}

// run is a sorted file.
type run struct {
	file   *os.File
	remove func() error
	level  int
}

func newSorter(dir string) *sorter { return &sorter{dir: dir, limit: sortBytes, fan: fanIn} }

// add takes a message; its object is copied.
func (s *sorter) add(ctx context.Context, r *record) error {
	if len(s.refs) > 0 && len(s.buf)+len(r.object)+refBytes*len(s.refs) > s.limit {
		if err := s.spill(ctx); err != nil {
			return err
		}
	}
	from := len(s.buf)
	s.buf = append(s.buf, r.object...)
	s.refs = append(s.refs, ref{int32(r.device), int32(from), int32(len(s.buf)), r.time}) //nolint:gosec // both are bounded
	s.most = max(s.most, len(s.buf)+refBytes*len(s.refs))
	return nil
}

func (s *sorter) sort() {
	slices.SortFunc(s.refs, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.time, b.time), cmp.Compare(a.from, b.from), cmp.Compare(a.end, b.end))
	})
}

// spill writes what is in memory to a file, and merges files where there are many.
func (s *sorter) spill(ctx context.Context) error {
	s.sort()
	i := 0
	err := s.write(0, func(r *record) (bool, error) {
		if i == len(s.refs) {
			return false, nil
		}
		s.at(i, r)
		i++
		return true, nil
	})
	if err != nil {
		return err
	}
	s.refs, s.buf = s.refs[:0], s.buf[:0]
	for {
		n, level := len(s.runs), s.runs[len(s.runs)-1].level
		if n < s.fan || s.runs[n-s.fan].level != level {
			return nil
		}
		group := slices.Clone(s.runs[n-s.fan:])
		m, err := merge(ctx, group)
		if err != nil {
			return err
		}
		s.runs = s.runs[:n-s.fan]
		err = errors.Join(s.write(level+1, m.next), closeRuns(group))
		if err != nil {
			return err
		}
	}
}

func (s *sorter) at(i int, r *record) {
	f := &s.refs[i]
	r.device, r.time, r.object = int(f.device), f.time, s.buf[f.from:f.end]
}

// write makes a sorted file of what next gives.
func (s *sorter) write(level int, next func(*record) (bool, error)) error {
	f, remove, err := tempFile(s.dir)
	if err != nil {
		return err
	}
	s.runs = append(s.runs, &run{f, remove, level})
	z := s2.NewWriter(diskWriter{f}, s2.WriterBlockSize(blockBytes), s2.WriterConcurrency(1))
	var head []byte
	var r record
	for {
		more, err := next(&r)
		if err != nil {
			return err
		}
		if !more {
			return z.Close()
		}
		head = binary.AppendUvarint(head[:0], uint64(r.device)) //nolint:gosec // numbers from 0
		head = binary.AppendUvarint(head, uint64(r.time))       //nolint:gosec // not negative
		head = binary.AppendUvarint(head, uint64(len(r.object)))
		if _, err := z.Write(head); err != nil {
			return err
		}
		if _, err := z.Write(r.object); err != nil {
			return err
		}
	}
}

// sorted gives the messages in order, once; the record's object is lent until the next call.
func (s *sorter) sorted(ctx context.Context) (next func(*record) (bool, error), err error) {
	if len(s.runs) == 0 {
		s.sort()
		i := 0
		return func(r *record) (bool, error) {
			if i == len(s.refs) {
				return false, nil
			}
			s.at(i, r)
			i++
			return true, nil
		}, nil
	}
	if err := s.spill(ctx); err != nil {
		return nil, err
	}
	s.refs, s.buf = nil, nil
	m, err := merge(ctx, s.runs)
	if err != nil {
		return nil, err
	}
	return m.next, nil
}

// close lets go of the files.
func (s *sorter) close() error {
	err := closeRuns(s.runs)
	s.runs = nil
	return err
}

func closeRuns(runs []*run) error {
	var errs []error
	for _, r := range runs {
		errs = append(errs, r.remove())
	}
	return errors.Join(errs...)
}

// merging is a merge of sorted files; a heap has the one with the least message on top.
type merging struct {
	ctx   context.Context //nolint:containedctx // of the one import that it belongs to
	open  []*runReader
	begun bool
}

// runReader reads a sorted file.
type runReader struct {
	record
	order int // of the file
	r     *bufio.Reader
	buf   []byte
}

func merge(ctx context.Context, runs []*run) (*merging, error) {
	m := &merging{ctx: ctx}
	for i, r := range runs {
		if _, err := r.file.Seek(0, io.SeekStart); err != nil {
			return nil, noSpace(err)
		}
		z := s2.NewReader(r.file, s2.ReaderMaxBlockSize(blockBytes), s2.ReaderAllocBlock(blockBytes))
		in := &runReader{order: i, r: bufio.NewReaderSize(z, 4<<10)}
		there, err := in.advance()
		if err != nil {
			return nil, err
		}
		if there {
			m.open = append(m.open, in)
		}
	}
	heap.Init(m)
	return m, nil
}

// advance reads the next message.
func (r *runReader) advance() (bool, error) {
	device, err := binary.ReadUvarint(r.r)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, noSpace(err)
	}
	time, err := binary.ReadUvarint(r.r)
	if err != nil {
		return false, noSpace(err)
	}
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return false, noSpace(err)
	}
	r.buf = slices.Grow(r.buf[:0], int(n))[:n] //nolint:gosec // an object's length
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return false, noSpace(err)
	}
	r.device, r.time, r.object = int(device), int64(time), r.buf //nolint:gosec // as they were written
	return true, nil
}

// next gives the least message that is left.
func (m *merging) next(r *record) (bool, error) {
	if m.begun && len(m.open) > 0 {
		there, err := m.open[0].advance()
		if err != nil {
			return false, err
		}
		if there {
			heap.Fix(m, 0)
		} else {
			heap.Pop(m)
		}
	}
	m.begun = true
	if len(m.open) == 0 {
		return false, nil
	}
	*r = m.open[0].record
	return true, m.ctx.Err()
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (m *merging) Len() int { return len(m.open) }

// Less orders by message, and equal ones by file.
func (m *merging) Less(i, j int) bool {
	a, b := m.open[i], m.open[j]
	return cmp.Or(a.compare(&b.record), cmp.Compare(a.order, b.order)) < 0
}

// Swap exchanges two files.
func (m *merging) Swap(i, j int) { m.open[i], m.open[j] = m.open[j], m.open[i] }

// Push takes a file.
func (m *merging) Push(x any) { m.open = append(m.open, x.(*runReader)) } //nolint:forcetypeassert // never called

// Pop gives the last file.
func (m *merging) Pop() any {
	last := m.open[len(m.open)-1]
	m.open = m.open[:len(m.open)-1]
	return last
}
