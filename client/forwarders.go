package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ForwarderQueue says how far a forwarder may be behind: MaxAge is a duration such as "7d".
type ForwarderQueue struct {
	MaxEntries int    `json:"max_entries,omitempty"`
	MaxAge     string `json:"max_age,omitempty"`
}

// ForwarderBackoff is the wait after a fault: it doubles from Min to Max, durations such as "500ms".
type ForwarderBackoff struct {
	Min string `json:"min,omitempty"`
	Max string `json:"max,omitempty"`
}

// ForwarderSpec says what a forwarder does. What is zero takes the hub's default; docs/forward.md
// of Signalbox has the meaning of each.
type ForwarderSpec struct {
	Name        string            `json:"name,omitempty"`
	To          string            `json:"to,omitempty"`
	Devices     []string          `json:"devices,omitempty"`
	Types       []string          `json:"types,omitempty"`
	Kinds       []string          `json:"kinds,omitempty"`
	Fields      []string          `json:"fields,omitempty"`
	Format      string            `json:"format,omitempty"`
	Template    string            `json:"template,omitempty"`
	Field       string            `json:"field,omitempty"`
	Queue       *ForwarderQueue   `json:"queue,omitempty"`
	Backoff     *ForwarderBackoff `json:"backoff,omitempty"`
	Timeout     string            `json:"timeout,omitempty"`
	Ack         bool              `json:"ack,omitempty"`
	Allow       []string          `json:"allow,omitempty"`
	Topic       string            `json:"topic,omitempty"`
	QoS         int               `json:"qos,omitempty"`
	Retain      bool              `json:"retain,omitempty"`
	Username    string            `json:"username,omitempty"`
	ClientID    string            `json:"client_id,omitempty"`
	Version     string            `json:"version,omitempty"`
	Parallel    int               `json:"parallel,omitempty"`
	Attempts    int               `json:"attempts,omitempty"`
	ContentType string            `json:"content_type,omitempty"`
	Sequence    bool              `json:"sequence,omitempty"`
	Paused      bool              `json:"paused,omitempty"`
	// Password, Bearer and Secret (the key that signs webhooks) are never given back.
	Password string `json:"password,omitempty"`
	Bearer   string `json:"bearer,omitempty"`
	Secret   string `json:"secret,omitempty"`
}

// ForwarderStatus is how a forwarder is.
type ForwarderStatus struct {
	// State is connecting, flowing, catching_up, waiting, listening or paused. While it waits,
	// Fault says why.
	State   string    `json:"state"`
	Fault   string    `json:"fault,omitempty"`
	FaultAt time.Time `json:"fault_at,omitzero"`
	// Position is where in the log the receiver has everything up to, Behind how many entries the
	// log is ahead of that.
	Position uint64 `json:"position"`
	Behind   int64  `json:"behind"`
	// Sent counts messages handed to the transport, Settled those the receiver has, Redelivered
	// those sent again, Failed datagrams that could not be sent, Skipped entries given up by the
	// limits of the queue, Gaps how often retention had dropped something before it was read, Dead
	// the dead letters, DeadDropped those that had to go for newer ones.
	Sent        int64    `json:"sent"`
	Settled     int64    `json:"settled"`
	Redelivered int64    `json:"redelivered"`
	Failed      int64    `json:"failed"`
	Skipped     int64    `json:"skipped"`
	Gaps        int64    `json:"gaps"`
	Dead        int64    `json:"dead"`
	DeadDropped int64    `json:"dead_dropped,omitempty"`
	Reconnects  int64    `json:"reconnects"`
	Receivers   []string `json:"receivers,omitempty"`
}

// Forwarder is one as it stands. Values of the query of To are shown as ***.
type Forwarder struct {
	ForwarderSpec
	// Secrets are which of password, bearer and secret are set.
	Secrets []string        `json:"secrets,omitempty"`
	Status  ForwarderStatus `json:"status"`
	// FromFile says that the configuration set it: it is changed and removed there alone.
	FromFile  bool      `json:"from_file"`
	CreatedBy string    `json:"created_by,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// DeadLetter is a message that a receiver did not take.
type DeadLetter struct {
	ID         int64     `json:"id"`
	Position   uint64    `json:"position"`
	Device     string    `json:"device"`
	ReceivedAt time.Time `json:"received_at"`
	DiedAt     time.Time `json:"died_at"`
	Attempts   int       `json:"attempts"`
	// Status is the receiver's last answer, Reason the same in words.
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason"`
	// Body is what was to be sent; BodyBase64 when it is no text.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
}

// DeadLetters is a page of them, newest first; Next is the cursor of the next page.
type DeadLetters struct {
	Items []DeadLetter `json:"items"`
	Next  string       `json:"next,omitempty"`
}

// Forwarders gives all of them, in order of their names.
func (h *Hub) Forwarders(ctx context.Context) ([]Forwarder, error) {
	var list struct{ Items []Forwarder }
	_, err := h.do(ctx, http.MethodGet, "/forwarders", nil, nil, &list)
	return list.Items, err
}

// Forwarder gives one; KindNotFound (forwarder_not_found) when there is none of that name.
func (h *Hub) Forwarder(ctx context.Context, name string) (Forwarder, error) {
	var f Forwarder
	_, err := h.do(ctx, http.MethodGet, at("forwarders", name), nil, nil, &f)
	return f, err
}

// AddForwarder makes one, which begins with what comes from now on. Errors: KindForbidden
// (target_not_allowed: the address is not public, and not listed in forward.allow), KindConflict
// (the name is taken), KindLimited (there are too many), and the general ones.
func (h *Hub) AddForwarder(ctx context.Context, spec ForwarderSpec) (Forwarder, error) {
	var f Forwarder
	_, err := h.do(ctx, http.MethodPost, "/forwarders", nil, spec, &f)
	return f, err
}

// ChangeForwarder changes members by their names of the API: those that are absent stay, nil
// takes one back to its default. KindForbidden (forwarder_from_file) when the configuration set it.
func (h *Hub) ChangeForwarder(ctx context.Context, name string, members map[string]any) (Forwarder, error) {
	if members == nil {
		members = map[string]any{}
	}
	var f Forwarder
	_, err := h.do(ctx, http.MethodPatch, at("forwarders", name), nil, members, &f)
	return f, err
}

// RemoveForwarder removes one, with its place in the log and its dead letters.
func (h *Hub) RemoveForwarder(ctx context.Context, name string) error {
	_, err := h.do(ctx, http.MethodDelete, at("forwarders", name), nil, nil, nil)
	return err
}

// PauseForwarder stops one, ResumeForwarder lets it go on; what comes meanwhile waits.
func (h *Hub) PauseForwarder(ctx context.Context, name string) (Forwarder, error) {
	var f Forwarder
	_, err := h.do(ctx, http.MethodPost, at("forwarders", name, "pause"), nil, nil, &f)
	return f, err
}

// ResumeForwarder undoes PauseForwarder.
func (h *Hub) ResumeForwarder(ctx context.Context, name string) (Forwarder, error) {
	var f Forwarder
	_, err := h.do(ctx, http.MethodPost, at("forwarders", name, "resume"), nil, nil, &f)
	return f, err
}

// DeadLetters gives a page of what a forwarder's receiver did not take, newest first; limit 0 is
// the hub's (100; at most 1,000).
func (h *Hub) DeadLetters(ctx context.Context, name string, limit int, cursor string) (DeadLetters, error) {
	query := url.Values{}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	set(query, "cursor", cursor)
	var page DeadLetters
	_, err := h.do(ctx, http.MethodGet, at("forwarders", name, "dead-letters"), query, nil, &page)
	return page, err
}

// AllDeadLetters walks through all of them, newest first, limit at a time. An error ends it.
func (h *Hub) AllDeadLetters(ctx context.Context, name string, limit int) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for cursor := ""; ; {
			page, err := h.DeadLetters(ctx, name, limit, cursor)
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			for i := range page.Items {
				if !yield(page.Items[i], nil) {
					return
				}
			}
			if cursor = page.Next; cursor == "" {
				return
			}
		}
	}
}

// ResendDeadLetters has dead letters sent again, all when no ids are given, and gives how many the
// receiver took; the others stay. KindUnavailable when it is away, KindConflict when the forwarder is
// paused or the receiver refuses them all.
func (h *Hub) ResendDeadLetters(ctx context.Context, name string, ids ...int64) (int, error) {
	return h.chooseDead(ctx, http.MethodPost, at("forwarders", name, "dead-letters", "resend"), ids)
}

// DropDeadLetters forgets dead letters, all when no ids are given, and gives how many.
func (h *Hub) DropDeadLetters(ctx context.Context, name string, ids ...int64) (int, error) {
	return h.chooseDead(ctx, http.MethodDelete, at("forwarders", name, "dead-letters"), ids)
}

func (h *Hub) chooseDead(ctx context.Context, method, path string, ids []int64) (int, error) {
	var count struct{ Count int }
	_, err := h.do(ctx, method, path, nil, struct {
		IDs []int64 `json:"ids,omitempty"`
	}{ids}, &count)
	return count.Count, err
}
