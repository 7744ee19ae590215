package broker

import (
	"log/slog"
	"runtime"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
)

// Config bounds what clients may use. Zero values take the defaults.
type Config struct {
	// ReceiveMaximum is how many messages with quality of service 1 and 2 a client may have
	// unacknowledged (5.0, 3.2.2.3.3; default 256). A 5.0 client beyond it is disconnected
	// (0x93), a 3.1.1 client, which cannot know, is made to wait.
	ReceiveMaximum uint16
	// Inflight bounds the messages that a subscriber has not acknowledged, beside its own
	// receive maximum (default 1,000, at most 4,096).
	Inflight int
	// MaxPacket is the largest packet that the gateway takes, in bytes, as told to clients
	// (3.2.2.3.6; default 0: nothing is told).
	MaxPacket uint32
	// TopicAliases is how many topic aliases a client may use (3.2.2.3.8; default 16, negative:
	// none). The broker itself uses none.
	TopicAliases int
	// MaxExpiry is the longest that a session outlives its connection (default 30 days). A 3.1.1
	// session with Clean Session 0, and a 5.0 client that asks for more, get this.
	MaxExpiry time.Duration
	// MaxSessions bounds the sessions that outlive their connection (default 100,000); a client
	// beyond it is refused (0x97). OwnerSessions bounds those of one owner (default 1,000, at most
	// a quarter of MaxSessions).
	MaxSessions, OwnerSessions int
	// MaxSubscriptions bounds the subscriptions of one session (default 1,024); beyond it
	// SUBACK says 0x97. MaxLevels bounds the levels of a topic filter (default 128); a deeper
	// one gets 0x8F.
	MaxSubscriptions, MaxLevels int
	// FilterBytes bounds a topic filter (default 1 KiB; a longer one gets 0x8F). A session's filters
	// together may have 64 bytes for each of MaxSubscriptions, at least 64 KiB, those of all
	// sessions of an owner 256 times that, at least 16 MiB; beyond SUBACK says 0x97.
	FilterBytes int
	// QueueMessages and QueueBytes bound what waits for one session (defaults 100,000 and
	// 64 MiB); messages beyond are dropped for it (queue_full).
	QueueMessages int
	QueueBytes    int64
	// TotalBytes bounds what waits on disk for all sessions together (default 4 GiB), MemoryBytes
	// what waits for those that end with their connection (default 1 GiB). One owner's sessions may
	// have a quarter of each. Same policy, but 64 KiB may always wait for a session, and for one
	// that is connected one message of any size.
	TotalBytes, MemoryBytes int64
	// WindowMessages and WindowBytes bound how much of a durable session's queue is in memory
	// (defaults 512 and 1 MiB; at least one message).
	WindowMessages int
	WindowBytes    int64
	// MaxRetained and RetainedBytes bound the retained messages (defaults 100,000 and 64 MiB), with
	// topic, payload, properties and 64 bytes each. What is beyond is not retained: 5.0 publishes
	// with quality of service above 0 are refused (0x97), others are routed all the same. Both are
	// counted. One owner may have a quarter of each, and an eighth of each is for HubOwner alone.
	// Of Volatile clients nothing is retained; their messages are routed.
	MaxRetained   int
	RetainedBytes int64
	// OutboxBytes is the size of a connection's outbox (default 64 KiB); a message larger than that
	// cannot be delivered and is dropped (too_large). The broker gives a
	// connection nothing while a quarter of it waits.
	OutboxBytes int
	// Senders is the number of goroutines that write to connections (default GOMAXPROCS).
	Senders int
	// Name gives the words for an owner that a log line names (default: the owner as it is).
	Name   func(owner string) string
	Logger *slog.Logger
}

func (c *Config) fill() {
	def(&c.ReceiveMaximum, 256)
	def(&c.Inflight, 1000)
	switch {
	case c.TopicAliases == 0:
		c.TopicAliases = 16
	case c.TopicAliases < 0:
		c.TopicAliases = 0
	}
	c.TopicAliases = min(c.TopicAliases, 65_535)
	c.Inflight = min(c.Inflight, maxInflight)
	def(&c.MaxExpiry, 30*24*time.Hour)
	def(&c.MaxSessions, 100_000)
	def(&c.OwnerSessions, 1000)
	c.OwnerSessions = max(1, min(c.OwnerSessions, c.MaxSessions/ownerPart))
	def(&c.MaxSubscriptions, 1024)
	def(&c.FilterBytes, 1<<10)
	def(&c.MaxLevels, 128)
	def(&c.QueueMessages, 100_000)
	def(&c.QueueBytes, 64<<20)
	def(&c.TotalBytes, 4<<30)
	def(&c.MemoryBytes, 1<<30)
	def(&c.WindowMessages, 512)
	def(&c.WindowBytes, 1<<20)
	def(&c.MaxRetained, 100_000)
	def(&c.RetainedBytes, 64<<20)
	def(&c.OutboxBytes, 64<<10)
	def(&c.Senders, runtime.GOMAXPROCS(0))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// sessionFilters and ownerFilters are what the filters of a session, and of all sessions of an
// owner, may have together, in bytes.
func (c *Config) sessionFilters() int { return max(64<<10, 64*c.MaxSubscriptions) }

func (c *Config) ownerFilters() int { return 256 * c.sessionFilters() }

func def[T uint16 | int | int64 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Parts are what the broker stands on.
type Parts struct {
	// Keeper keeps sessions over a restart, and Image is what it found at the start. Without a
	// Keeper durable sessions and retained messages end with the process.
	Keeper *durable.Keeper
	Image  *durable.Image
	// Log tells of commits. Nil: nothing waits for a commit.
	Log history.Appender
	// Taker hears of what clients publish before it is routed. Nil: all is only routed.
	Taker Taker
}
