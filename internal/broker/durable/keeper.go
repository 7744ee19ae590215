package durable

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// Log is what the keeper needs of the intake log.
type Log interface {
	history.Appender
	// Hold keeps entries in the log; see history.Log.
	Hold() *history.Hold
	// Scan gives the entries from a position on, up to what is committed.
	Scan(ctx context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error
	// Newest is the time of receipt of the newest entry.
	Newest() time.Time
}

// Config tunes the keeper. Zero values take the defaults.
type Config struct {
	// Pending bounds the memory of what is not in the tables yet, in bytes (default 32 MiB).
	Pending int64
	// Delay is how long a change waits for others until it is written into the tables
	// (default 3 s).
	Delay time.Duration
	// Behind is how many entries the log may be ahead of the tables until they are written
	// without delay (default 1 Mi).
	Behind int
	Logger *slog.Logger
}

// Keeper keeps sessions. Make it with Open. All its methods may be called from any goroutine,
// but records are in the order in which Done is called: see the package.
type Keeper struct {
	cfg    Config
	log    Log
	store  *store.Store
	hold   *history.Hold
	bounds bounds

	records sync.Pool
	open    atomic.Int64  // records that are made, and neither done nor dropped
	lastID  atomic.Uint64 // of a session

	mu       sync.Mutex
	sessions map[SessionID]*session
	retained map[string]*retained // that the table does not show
	queue    []debt               // in the order of their since
	head     int                  // of queue
	drops    map[SessionID]uint64 // rows of queues to delete: those that end below that number
	pending  int64                // bytes
	last     signalbox.Position   // of the last record that was done
	maxID    uint64               // of the sessions in records
	targets  []Target             // of the record that is being taken up
	wake     chan struct{}

	checkpoint atomic.Uint64

	// turn is held from the choice of what is written until it is on disk, around mu.
	turn       sync.Mutex
	unfinished *batch    // that was chosen and is not known to be on disk
	moved      time.Time // when the checkpoint was
	storedID   uint64    // maxID as the database has it
	nextRow    uint64    // of queues
	enc        *zstd.Encoder

	dec   *zstd.Decoder
	stats Stats
}

// Stats counts what the keeper did since it was opened.
type Stats struct {
	Records, Refused                     atomic.Int64 // records done; those refused because too much was pending
	SessionRows, QueueRows, RetainedRows atomic.Int64 // rows written
	QueueMessages                        atomic.Int64 // messages in QueueRows
	DeletedRows                          atomic.Int64 // rows of queues deleted
	Batches, Faults                      atomic.Int64 // transactions, and such that failed
	RowsRead                             atomic.Int64 // rows of queues read for Read
	Broken                               atomic.Int64 // rows that could not be read or were refused by the database, and records that Done refused
	Sessions, Pending, Behind            atomic.Int64 // gauges: sessions, bytes not in the tables, sessions and topics that are behind
}

// Stats gives the live counters.
func (k *Keeper) Stats() *Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.Sessions.Store(int64(len(k.sessions)))
	k.stats.Pending.Store(k.pending)
	k.stats.Behind.Store(int64(len(k.queue) - k.head))
	return &k.stats
}

// session is one in memory: what is needed to write its state, and what is not in the table.
type session struct {
	id          SessionID
	acked, next uint64
	sent        uint64
	closedAt    int64 // ms; 0: it is connected
	expiry      int64 // ms; negative: for ever
	w           *work // nil while nothing waits
}

// work is what a session has that is not at rest.
type work struct {
	done, released []uint64 // ascending
	received       []uint16
	given          []uint64 // topics, while a subscription is owed retained messages
	items          []item   // of the queue and not in the table, ascending
	taken          uint64   // items up to that number are being written
	stored         uint64   // the largest number in the table; 0: there is none

	queued bool // there is a debt
	fresh  bool // there is no row
	begun  bool // head changed
	willed bool // will changed
	state  bool // anything in it changed
	ended  bool
	head   []byte
	will   []byte
	subs   []change
	size   int64 // of these three
}

// change is one of a session's subscriptions.
type change struct {
	kind byte // kindSubscribe or kindUnsubscribe
	body []byte
}

// item is a message in a queue.
type item struct {
	n uint64
	m *stored
	options
}

// options are a target's, without its session and number.
type options struct {
	ids    []uint32
	qos    uint8
	retain bool
}

// stored is a message that is not in the tables; many queues may have it.
type stored struct {
	body []byte // as of appendMessage
	refs int
}

const (
	// messageCost, itemCost and workCost are about what they take in memory, in bytes.
	messageCost = 64
	itemCost    = 56
	workCost    = 256
)

// retained is the retained message of a topic that the table does not show.
type retained struct {
	topic  string
	m      *stored // nil: there is none any more
	queued bool
}

// debt is a session's or a topic's row that is behind the log.
type debt struct {
	s     *session
	r     *retained
	since signalbox.Position // the first change that the row may not show, or an earlier one
	due   time.Time
}

// NewID gives the number of a new session. None is given twice, also not by another life of
// the hub if a record of it was durable.
func (k *Keeper) NewID() SessionID { return SessionID(k.lastID.Add(1)) }

// Full reports whether too much waits for the tables: Append refuses then, and who has records
// appended by others should not.
func (k *Keeper) Full() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.full()
}

func (k *Keeper) full() bool { return k.pending >= k.cfg.Pending }

// Append appends r to the log. ErrFull of history when too much waits for the log or for the
// tables; records that take something away are held up by the log alone.
func (k *Keeper) Append(r *Record, u history.Urgency) error {
	if !r.relieves && k.Full() {
		k.stats.Refused.Add(1)
		return history.ErrFull
	}
	return k.log.Append(&r.Entry, u)
}

// Done takes up a record that has its position, and gives that. r must not be used any more. One
// without a position was never appended: it is not taken up, which is logged and counted
// (Stats.Broken).
func (k *Keeper) Done(r *Record) signalbox.Position {
	k.mu.Lock()
	p, err := k.takeUp(r)
	k.mu.Unlock()
	k.ended(r, p, err)
	return p
}

// DoneBoth is Done of a message's record and of the one that takes the message out of queues
// again, with nothing in between: nobody sees it there, and no table.
func (k *Keeper) DoneBoth(publish, retract *Record) signalbox.Position {
	k.mu.Lock()
	p1, err1 := k.takeUp(publish)
	p2, err2 := k.takeUp(retract)
	k.mu.Unlock()
	k.ended(publish, p1, err1)
	k.ended(retract, p2, err2)
	return max(p1, p2)
}

// takeUp applies a record that was appended. The caller holds mu.
func (k *Keeper) takeUp(r *Record) (signalbox.Position, error) {
	p := r.Entry.Position
	if p == 0 {
		return 0, errUnplaced
	}
	half := k.pending >= k.cfg.Pending/2
	err := k.apply(p, r.Entry.Body)
	if !half && k.pending >= k.cfg.Pending/2 {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	return p, err
}

// ended gives a record back and tells of what was wrong with it.
func (k *Keeper) ended(r *Record, p signalbox.Position, err error) {
	if err != nil { // it was made here
		k.stats.Broken.Add(1)
		k.cfg.Logger.Error("a record of the MQTT broker cannot be taken up", "position", p, "err", err)
	} else {
		k.stats.Records.Add(1)
	}
	k.giveBack(r)
}

// Drop gives up a record that was not appended.
func (k *Keeper) Drop(r *Record) { k.giveBack(r) }

func (k *Keeper) giveBack(r *Record) {
	if cap(r.Entry.Body) > keepRecord {
		r.Entry.Body = nil
	}
	k.records.Put(r)
	k.open.Add(-1)
}
