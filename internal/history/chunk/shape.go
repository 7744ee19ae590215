package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"signalbox"
)

// ShapeID is the number of a shape: what an object is besides its leaves. It is written to
// disk and never means another shape. 0 is «raw»: a body without a shape.
type ShapeID uint32

const (
	// MaxShapes is the largest number a shape may have.
	MaxShapes = 1 << 20

	shapeVersion = 1
	// shapeBudget is how many bytes of memory a shape may take on average before no more
	// are taken in, and leastBudget what all may take in any case.
	shapeBudget = 2 << 10
	leastBudget = 256 << 10
	// candidates is how many pairs of bodies without a known shape are remembered.
	candidates = 2048
)

// StoredShape is a shape in the form in which it is stored.
type StoredShape struct {
	ID ShapeID
	// Text describes the shape: byte 1, the number of leaves and each literal, the lengths
	// as unsigned varints.
	Text []byte
}

// shape is immutable.
type shape struct {
	id      ShapeID
	segs    [][]byte // the literals around the leaves, one more than there are leaves
	nodes   []node   // in the order of the text
	literal int      // bytes of segs
}

func (s *shape) slots() int { return len(s.segs) - 1 }

// find gives the last value of that path, nil when there is none.
func (s *shape) find(path string) *node {
	for i := len(s.nodes) - 1; i >= 0; i-- {
		if s.nodes[i].path == path {
			return &s.nodes[i]
		}
	}
	return nil
}

func (s *shape) text() []byte {
	out := binary.AppendUvarint([]byte{shapeVersion}, uint64(s.slots()))
	for _, seg := range s.segs {
		out = binary.AppendUvarint(out, uint64(len(seg)))
		out = append(out, seg...)
	}
	return out
}

// cost is about the bytes of memory the shape takes.
func (s *shape) cost() int {
	n := 128 + s.literal + 24*len(s.segs) + 56*len(s.nodes)
	for i := range s.nodes {
		n += len(s.nodes[i].path)
	}
	return n
}

// newShape makes a shape of literals, when they are those of an object.
func newShape(segs [][]byte) (*shape, bool) {
	s := &shape{segs: make([][]byte, len(segs))}
	var sample []byte
	for i, seg := range segs {
		s.segs[i] = slices.Clone(seg)
		s.literal += len(seg)
		sample = append(sample, seg...)
		if i < len(segs)-1 {
			sample = append(sample, '0')
		}
		if len(sample) > MaxShaped {
			return nil, false
		}
	}
	var w walker
	if !w.walk(sample, true) || len(w.leaves) != len(segs)-1 {
		return nil, false
	}
	at := 0
	for i, l := range w.leaves {
		at += len(segs[i])
		if l.from != at || l.to != at+1 {
			return nil, false
		}
		at++
	}
	s.nodes = slices.Clip(w.nodes)
	return s, true
}

// Shapes is the table of shapes that all devices share. It may be used from any goroutine;
// reading takes no lock.
//
// A shape is taken in when it is seen a second time, so that keys which never come again (a
// time as a key) do not fill the table; what has no shape is kept raw. The same once the
// table is full.
type Shapes struct {
	limit int
	seed  maphash.Seed
	raw   *shape

	list    atomic.Pointer[[]atomic.Pointer[shape]] // by number
	table   atomic.Pointer[shapeTable]
	seen    [candidates][2]atomic.Uint64 // their hashes, the newer one first
	n       atomic.Int64
	refused atomic.Int64

	mu     sync.Mutex
	next   ShapeID
	spent  int // bytes
	fresh  []*shape
	walks  sync.Pool // of *walker
	inflow *zstd.Decoder
	once   sync.Once
}

// shapeTable finds shapes by their hash: open addressing, at most half full.
type shapeTable struct {
	slots []atomic.Pointer[hashedShape]
}

type hashedShape struct {
	*shape
	hash uint64
}

// NewShapes makes an empty table of at most limit shapes, 1 ≤ limit ≤ MaxShapes; values
// outside are brought inside.
func NewShapes(limit int) *Shapes {
	s := &Shapes{
		limit: min(max(limit, 1), MaxShapes),
		seed:  maphash.MakeSeed(),
		raw:   &shape{segs: [][]byte{nil, nil}},
		next:  1,
	}
	s.walks.New = func() any { return new(walker) }
	list := make([]atomic.Pointer[shape], 64)
	list[0].Store(s.raw)
	s.list.Store(&list)
	s.table.Store(&shapeTable{slots: make([]atomic.Pointer[hashedShape], 128)})
	return s
}

// Len gives how many shapes the table holds.
func (s *Shapes) Len() int { return int(s.n.Load()) }

// Refused counts the bodies that are objects of a new shape and were kept raw all the same,
// because the table was full.
func (s *Shapes) Refused() int64 { return s.refused.Load() }

// Load puts a stored shape into the table, whatever the limit; it is for the start. A
// number that is taken by another shape, or a text that describes no shape, gives an error
// that wraps ErrBroken.
func (s *Shapes) Load(id ShapeID, text []byte) error {
	if id == 0 || id > MaxShapes {
		return fmt.Errorf("%w: shape %d: numbers run from 1 to %d", ErrBroken, id, MaxShapes)
	}
	sh, err := parseShape(text)
	if err != nil {
		return fmt.Errorf("shape %d: %w", id, err)
	}
	sh.id = id
	hash := s.hashShape(sh)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.get(id); old != nil {
		if slices.EqualFunc(old.segs, sh.segs, bytes.Equal) {
			return nil
		}
		return fmt.Errorf("%w: shape %d is in the table already, and another one", ErrBroken, id)
	}
	s.put(sh, hash)
	return nil
}

func parseShape(text []byte) (*shape, error) {
	if len(text) == 0 || text[0] != shapeVersion {
		return nil, fmt.Errorf("%w: its text has no version, or one that is not known", ErrBroken)
	}
	slots, at := uvarint(text, 1)
	if at == 0 || slots > MaxLeaves {
		return nil, fmt.Errorf("%w: its text gives no number of leaves, or more than %d", ErrBroken, MaxLeaves)
	}
	segs := make([][]byte, slots+1)
	for i := range segs {
		n, next := uvarint(text, at)
		if next == 0 || n > uint64(len(text)-next) {
			return nil, fmt.Errorf("%w: its text ends early", ErrBroken)
		}
		segs[i] = text[next : next+int(n)]
		at = next + int(n)
	}
	if at != len(text) {
		return nil, fmt.Errorf("%w: its text is too long", ErrBroken)
	}
	sh, ok := newShape(segs)
	if !ok {
		return nil, fmt.Errorf("%w: its text describes no JSON object within the limits", ErrBroken)
	}
	return sh, nil
}

// Fresh gives the shapes that came into the table since the last call. The caller stores
// them before, or together with, the first chunk that uses them.
func (s *Shapes) Fresh() []StoredShape {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fresh) == 0 {
		return nil
	}
	out := make([]StoredShape, 0, len(s.fresh))
	for _, sh := range s.fresh {
		out = append(out, StoredShape{sh.id, sh.text()})
	}
	s.fresh = nil
	return out
}

// Restore gives back what Fresh gave, when it could not be stored: the next Fresh gives it
// again.
func (s *Shapes) Restore(list []StoredShape) {
	s.mu.Lock()
	defer s.mu.Unlock()
	back := make([]*shape, 0, len(list)+len(s.fresh))
	for _, l := range list {
		if sh := s.get(l.ID); sh != nil && sh != s.raw {
			back = append(back, sh)
		}
	}
	s.fresh = append(back, s.fresh...)
}

// get gives the shape of that number, nil when there is none.
func (s *Shapes) get(id ShapeID) *shape {
	list := *s.list.Load()
	if int(id) < len(list) {
		return list[id].Load()
	}
	return nil
}

// put is called with mu held, for a number that is free.
func (s *Shapes) put(sh *shape, hash uint64) {
	list := *s.list.Load()
	if int(sh.id) >= len(list) {
		wider := make([]atomic.Pointer[shape], max(2*len(list), int(sh.id)+1))
		for i := range list {
			wider[i].Store(list[i].Load())
		}
		s.list.Store(&wider)
		list = wider
	}
	list[sh.id].Store(sh)
	s.next = max(s.next, sh.id+1)
	s.spent += sh.cost()
	n := int(s.n.Add(1))
	table := s.table.Load()
	if 2*n > len(table.slots) {
		wider := &shapeTable{slots: make([]atomic.Pointer[hashedShape], 4*len(table.slots))}
		for i := range table.slots {
			if h := table.slots[i].Load(); h != nil {
				wider.put(h)
			}
		}
		s.table.Store(wider)
		table = wider
	}
	table.put(&hashedShape{sh, hash})
}

func (t *shapeTable) put(h *hashedShape) {
	mask := uint64(len(t.slots) - 1)
	for i := h.hash & mask; ; i = (i + 1) & mask {
		if t.slots[i].Load() == nil {
			t.slots[i].Store(h)
			return
		}
	}
}

const hashFactor = 0x9e3779b97f4a7c15

func (s *Shapes) hashShape(sh *shape) uint64 {
	var h uint64
	for _, seg := range sh.segs {
		h = bits.RotateLeft64(h^maphash.Bytes(s.seed, seg), 25) * hashFactor
	}
	return h
}

// hashBody is hashShape for the literals of a body that was walked.
func (s *Shapes) hashBody(body []byte, leaves []span) uint64 {
	var h uint64
	at := 0
	for _, l := range leaves {
		h = bits.RotateLeft64(h^maphash.Bytes(s.seed, body[at:l.from]), 25) * hashFactor
		at = l.to
	}
	return bits.RotateLeft64(h^maphash.Bytes(s.seed, body[at:]), 25) * hashFactor
}

// find gives the shape of a body that was walked, nil when the table has none.
func (s *Shapes) find(hash uint64, body []byte, leaves []span) *shape {
	table := s.table.Load()
	mask := uint64(len(table.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		h := table.slots[i].Load()
		if h == nil {
			return nil
		}
		if h.hash == hash && h.fits(body, leaves) {
			return h.shape
		}
	}
}

func (s *shape) fits(body []byte, leaves []span) bool {
	if s.slots() != len(leaves) {
		return false
	}
	at := 0
	for i, l := range leaves {
		if !bytes.Equal(s.segs[i], body[at:l.from]) {
			return false
		}
		at = l.to
	}
	return bytes.Equal(s.segs[len(leaves)], body[at:])
}

// of gives the shape of a body and takes it in where it may; nil when the body has to be
// kept raw.
func (s *Shapes) of(w *walker, body []byte) *shape {
	if !w.walk(body, false) {
		return nil
	}
	hash := s.hashBody(body, w.leaves)
	if sh := s.find(hash, body, w.leaves); sh != nil {
		return sh
	}
	if seen := &s.seen[hash%candidates]; seen[0].Load() != hash && seen[1].Load() != hash {
		seen[1].Store(seen[0].Load())
		seen[0].Store(hash)
		return nil
	}
	return s.admit(hash, body, w.leaves)
}

// known gives the shape of a body when the table has it.
func (s *Shapes) known(w *walker, body []byte) *shape {
	if !w.walk(body, false) {
		return nil
	}
	return s.find(s.hashBody(body, w.leaves), body, w.leaves)
}

func (s *Shapes) admit(hash uint64, body []byte, leaves []span) *shape {
	if s.full() {
		s.refused.Add(1)
		return nil
	}
	segs := make([][]byte, 0, len(leaves)+1)
	at := 0
	for _, l := range leaves {
		segs = append(segs, body[at:l.from])
		at = l.to
	}
	sh, ok := newShape(append(segs, body[at:]))
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.find(hash, body, leaves); other != nil {
		return other
	}
	if s.n.Load() >= int64(s.limit) || s.next > MaxShapes || s.spent+sh.cost() > max(s.limit*shapeBudget, leastBudget) {
		s.refused.Add(1)
		return nil
	}
	sh.id = s.next
	s.put(sh, hash)
	s.fresh = append(s.fresh, sh)
	return sh
}

// full says, without a lock, that nothing more is taken in.
func (s *Shapes) full() bool { return s.n.Load() >= int64(s.limit) }

func (s *Shapes) walker() *walker {
	w, _ := s.walks.Get().(*walker)
	return w
}

func (s *Shapes) done(w *walker) {
	w.b = nil
	s.walks.Put(w)
}

// decoder gives the one decompressor all readers share; it is made at its first use.
func (s *Shapes) decoder() (*zstd.Decoder, error) {
	var err error
	s.once.Do(func() {
		s.inflow, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPayload), zstd.WithDecodeAllCapLimit(true))
	})
	if s.inflow == nil {
		return nil, signalbox.Wrap(signalbox.KindInternal, "internal", errors.Join(err), "the decompressor could not be made")
	}
	return s.inflow, nil
}
