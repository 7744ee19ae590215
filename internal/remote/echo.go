package remote

import (
	"context"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"signalbox/internal/mapped"
	"signalbox/internal/wire"
)

const (
	lately      = time.Minute // that a topic was commanded, at least
	latelyMost  = 4096        // topics of commands that are known, twice that for a short while
	topicShown  = 200         // bytes of a topic in a line
	strangerGap = time.Hour   // between two lines about messages that hardly are the hub's own
)

// echoes gives the filters of what commands are published to, and those of mappings which match
// nothing else: where the topic alone tells an echo, all their messages would be taken for such. It
// is an error where that is certain beforehand.
func (c *Config) echoes() (own, swallowed []string, err error) {
	topics, err := mapped.Expand(c.Topics)
	if err != nil {
		return nil, nil, invalid(c.Name, "%s", err)
	}
	if c.Native != nil {
		own = append(own, nativeTopic(wire.NativeCommand))
	}
	for i := range topics {
		if command := topics[i].Command; command != nil {
			if filter := templateFilter(command.Topic); !slices.Contains(own, filter) {
				own = append(own, filter)
			}
		}
	}
	for i := range topics {
		if m := &topics[i]; m.Format != mapped.FormatNone && mapped.Covered(own, m.Filter) {
			swallowed = append(swallowed, m.Filter)
		}
	}
	if len(swallowed) > 0 && (c.Version == V311 || c.Shared != "") {
		return nil, nil, invalid(c.Name, "the filter %q matches nothing but topics that commands go to; with version 3.1.1, and with shared, all its messages would be taken for the hub's own commands and dropped; allowed is a command topic beside the filters, such as one that ends in /set", swallowed[0])
	}
	return own, swallowed, nil
}

// templateFilter gives the filter of all topics that a command's template can make: what is
// put into a topic never holds a slash.
func templateFilter(template string) string {
	levels := strings.Split(template, "/")
	for i, level := range levels {
		if strings.Contains(level, "{") {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}

// swallows tells, once, of mappings whose messages are all dropped on a 3.1.1 connection that Auto
// came to. l.mu is held.
func (l *Link) swallows() {
	if len(l.swallowed) == 0 {
		return
	}
	filters := strings.Join(l.swallowed, ", ")
	l.status.OK = false
	l.status.Message += ", but takes all messages of these filters for the hub's own commands: " + filters
	if l.warned {
		return
	}
	l.warned = true
	l.logger.Warn("an MQTT broker speaks 3.1.1, where messages on topics that commands go to are dropped as the hub's own: nothing comes of these filters; give commands other topics",
		"url", l.address.String(), "filters", filters)
}

// echo counts a message that is taken for the hub's own, and tells if it hardly is. Retained ones
// may be of a command from long ago.
func (l *Link) echo(m *message) {
	l.stats.Echoes.Add(1)
	if m.retained || l.commanded.has(maphash.String(l.seed, m.topic)) {
		return
	}
	l.stats.Strange.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	level := slog.LevelWarn
	if l.cfg.Shared != "" {
		level = slog.LevelInfo // another hub of the group may have sent them
	}
	l.foreign.tell(l.logger, level, m.topic)
}

// strangers bounds what is logged of them.
type strangers struct {
	count int // since it was told of
	told  time.Time
}

func (s *strangers) tell(logger *slog.Logger, level slog.Level, topic string) {
	s.count++
	if !s.told.IsZero() && time.Since(s.told) < strangerGap {
		return
	}
	logger.Log(context.Background(), level, "messages of an MQTT broker were dropped as the hub's own commands, though this hub has sent none to that topic lately; telemetry needs topics that no command can go to",
		"topic", topic[:min(len(topic), topicShown)], "messages", s.count)
	s.count, s.told = 0, time.Now()
}

// recent has the hashes that were noted in the last minute, and some from before. It may be used
// by any goroutine; its zero value is good.
type recent struct {
	mu         sync.Mutex
	young, old map[uint64]struct{}
	since      time.Time // of young
}

func (r *recent) note(topic uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn()
	r.young[topic] = struct{}{}
}

func (r *recent) has(topic uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn()
	_, young := r.young[topic]
	_, old := r.old[topic]
	return young || old
}

// turn forgets what is too old, or too much.
func (r *recent) turn() {
	switch age := time.Since(r.since); {
	case age >= 2*lately:
		r.old = nil
	case age < lately && len(r.young) < latelyMost:
		return
	default:
		r.old = r.young
	}
	r.young, r.since = make(map[uint64]struct{}), time.Now()
}
