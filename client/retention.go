package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// RetentionAmount is how much history was dropped. Bytes are what the chunks took in the
// database; Messages counts presence, commands and alerts too.
type RetentionAmount struct {
	Chunks   int64 `json:"chunks"`
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
	// PlainRows of the plain table were deleted one by one, PlainDays as a whole.
	PlainRows int64 `json:"plain_rows,omitempty"`
	PlainDays int64 `json:"plain_days,omitempty"`
}

// RetentionRule is a rule of how much history is kept, of a hub's history.keep.
type RetentionRule struct {
	// Rule is the rule as it is configured; Scope is all, type or device, Name that type's or
	// device's.
	Rule  string `json:"rule"`
	Scope string `json:"scope"`
	Name  string `json:"name,omitempty"`
	// MaxAgeMs and MaxBytes (of each device) are the bounds; 0: none.
	MaxAgeMs int64 `json:"max_age_ms,omitempty"`
	MaxBytes int64 `json:"max_bytes,omitempty"`
	// Devices is how many devices the rule is for at present.
	Devices int `json:"devices"`
}

// RetentionPart is what a run dropped by one rule of devices of one type.
type RetentionPart struct {
	// Of is telemetry; events (presence, commands and alerts), removed (of devices that were
	// removed), plain (of the plain table), or others, where there would be too many parts.
	Of   string `json:"of"`
	Rule string `json:"rule,omitempty"`
	Type string `json:"type,omitempty"`
	RetentionAmount
}

// RetentionRun is one time that history was looked through for what is too old or too much.
type RetentionRun struct {
	ID int64 `json:"id"`
	// State is running, done or failed; Error says why it failed.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// AskedBy is who wanted it; empty: its time had come.
	AskedBy   string    `json:"asked_by,omitempty"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	TookMs    int64     `json:"took_ms"`
	RetentionAmount
	// ReclaimedBytes were given back to the system.
	ReclaimedBytes int64           `json:"reclaimed_bytes"`
	Dropped        []RetentionPart `json:"dropped"`
}

// RetentionTotals are the sums of all runs since a time, restarts of the hub included.
type RetentionTotals struct {
	Since time.Time `json:"since,omitzero"`
	Runs  int64     `json:"runs"`
	RetentionAmount
	ReclaimedBytes int64 `json:"reclaimed_bytes"`
}

// Retention is how much history a hub keeps, and what it dropped.
type Retention struct {
	Rules []RetentionRule `json:"rules"`
	// WithoutRule is how many devices keep all their history.
	WithoutRule int `json:"without_rule"`
	// NextAt is when the next run begins; zero while one is under way, which is Running.
	NextAt  time.Time     `json:"next_at,omitzero"`
	Running *RetentionRun `json:"running,omitempty"`
	// Last is the last run that has ended, nil when there was none since the hub was started;
	// Runs are the latest that dropped something or failed, and the newest that was asked for and
	// did nothing; newest first.
	Last   *RetentionRun   `json:"last,omitempty"`
	Runs   []RetentionRun  `json:"runs"`
	Totals RetentionTotals `json:"totals"`
}

// Retention tells how much history the hub keeps, and what it dropped.
func (h *Hub) Retention(ctx context.Context) (Retention, error) {
	var r Retention
	_, err := h.do(ctx, http.MethodGet, "/retention", nil, nil, &r)
	return r, err
}

// RunRetention makes the hub drop now what is too old or too much; a run that is under way
// already will do. It gives the run as it stands when it has ended or wait (60 s at most) is
// over; the run goes on whatever becomes of ctx.
func (h *Hub) RunRetention(ctx context.Context, wait time.Duration) (RetentionRun, error) {
	query := url.Values{}
	set(query, "wait", span(wait))
	var r RetentionRun
	_, err := h.do(ctx, http.MethodPost, "/retention/runs", query, nil, &r)
	return r, err
}

// RetentionRun gives a run when it has ended, or as it stands when wait (60 s at most) is over;
// KindNotFound (run_not_found) when the hub does not remember it.
func (h *Hub) RetentionRun(ctx context.Context, id int64, wait time.Duration) (RetentionRun, error) {
	query := url.Values{}
	set(query, "wait", span(wait))
	var r RetentionRun
	_, err := h.do(ctx, http.MethodGet, at("retention", "runs", strconv.FormatInt(id, 10)), query, nil, &r)
	return r, err
}
