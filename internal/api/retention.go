package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"signalbox"
)

// Retention drops old history by the rules; package app's is it.
type Retention interface {
	// State tells of the rules and of what they did.
	State() RetentionState
	// Start begins a run in the name of somebody and gives it as it stands. One that is under way
	// already is that run.
	Start(by string) RetentionRun
	// Run gives a run when it has ended, or as it stands when ctx has; KindNotFound when it is
	// none of those remembered.
	Run(ctx context.Context, id int64) (RetentionRun, error)
}

// The states of a RetentionRun.
const (
	RetentionRunning = "running"
	RetentionDone    = "done"
	RetentionFailed  = "failed"
)

// What a RetentionPart is of.
const (
	RetentionTelemetry = "telemetry"
	RetentionEvents    = "events"
	RetentionRemoved   = "removed"
	RetentionPlain     = "plain"
	RetentionOthers    = "others"
)

// RetentionAmount is how much was dropped.
type RetentionAmount struct {
	Chunks   int64 `json:"chunks"`
	Messages int64 `json:"messages" doc:"Messages, and of events their number."`
	Bytes    int64 `json:"bytes" doc:"What the chunks took in the database."`
	// PlainRows and PlainDays are of the plain table.
	PlainRows int64 `json:"plain_rows,omitempty" doc:"Rows of the plain table that were deleted one by one."`
	PlainDays int64 `json:"plain_days,omitempty" doc:"Days of the plain table that were dropped as a whole, with all their rows."`
}

// RetentionRule is a rule in force.
type RetentionRule struct {
	Rule     string `json:"rule" doc:"As history.keep has it."`
	Scope    string `json:"scope" enum:"all,type,device"`
	Name     string `json:"name,omitempty" doc:"Of the type, or of the device."`
	MaxAgeMs int64  `json:"max_age_ms,omitempty"`
	MaxBytes int64  `json:"max_bytes,omitempty" doc:"Of each device."`
	Devices  int    `json:"devices" doc:"How many devices it is for at present; those of a more special rule are not counted."`
}

// RetentionPart is what a run dropped by one rule of devices of one type.
type RetentionPart struct {
	Of   string `json:"of" enum:"telemetry,events,removed,plain,others" doc:"events: presence, commands and alerts of all devices; removed: of devices that were removed; plain: of the plain table, by all rules; others: of what would be more than 100 parts."`
	Rule string `json:"rule,omitempty"`
	Type string `json:"type,omitempty" doc:"Of the devices."`
	RetentionAmount
}

// RetentionRun is one time that history was looked through.
type RetentionRun struct {
	ID        int64  `json:"id"`
	State     string `json:"state" enum:"running,done,failed"`
	Error     string `json:"error,omitempty" doc:"Why it failed; what was dropped before stays so, and the next run goes on."`
	AskedBy   string `json:"asked_by,omitempty" doc:"Absent: its time had come."`
	StartedAt Time   `json:"started_at"`
	EndedAt   Time   `json:"ended_at,omitzero"`
	TookMs    int64  `json:"took_ms" doc:"Giving space back included."`
	RetentionAmount
	ReclaimedBytes int64           `json:"reclaimed_bytes" doc:"Given back to the system; database servers keep such space for what comes."`
	Dropped        []RetentionPart `json:"dropped" nullable:"false" doc:"By rule and type of device."`
}

// RetentionTotals are the sums of all runs.
type RetentionTotals struct {
	Since Time  `json:"since,omitzero" doc:"The first run of this database that was counted."`
	Runs  int64 `json:"runs"`
	RetentionAmount
	ReclaimedBytes int64 `json:"reclaimed_bytes"`
}

// RetentionState is what is to be known of retention.
type RetentionState struct {
	Rules       []RetentionRule `json:"rules" nullable:"false" doc:"Those of history.keep. Without one that is for a device all its history is kept."`
	WithoutRule int             `json:"without_rule" doc:"How many devices no rule is for."`
	NextAt      Time            `json:"next_at,omitzero" doc:"When the next run begins; absent while one is under way."`
	Running     *RetentionRun   `json:"running,omitempty"`
	Last        *RetentionRun   `json:"last,omitempty" doc:"The last run that has ended, whether it dropped something or not; absent when there was none since the hub was started."`
	Runs        []RetentionRun  `json:"runs" nullable:"false" doc:"The last 50, since the hub was started, that dropped something or failed, and the newest that was asked for and did nothing; newest first."`
	Totals      RetentionTotals `json:"totals" doc:"They survive restarts; a run that was cut short by a kill is not in them."`
}

type retentionOutput struct{ Body RetentionState }

type retentionRunInput struct {
	Wait string `query:"wait" doc:"Answer when the run has ended or this time (at most 60s) is over." example:"30s"`
}

type getRetentionRunInput struct {
	ID   int64  `path:"id" doc:"The run's id."`
	Wait string `query:"wait" doc:"Answer when the run has ended or this time (at most 60s) is over." example:"30s"`
}

type startRetentionOutput struct {
	Location string `header:"Location"`
	Body     RetentionRun
}

type retentionRunOutput struct{ Body RetentionRun }

func (s *server) registerRetention() {
	const tag = "retention"
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/retention", "get-retention", tag, "Show how much history is kept, and what was dropped",
		"The rules in force (history.keep), when they are next applied, what the latest runs dropped, and the totals."),
		func(context.Context, *struct{}) (*retentionOutput, error) {
			return &retentionOutput{s.Retention.State()}, nil
		})
	start := operation(http.MethodPost, "/retention/runs", "run-retention", tag, "Drop what is too old or too much, now",
		"By the rules in force, as every ten minutes; when a run is under way already, that is the answer. It goes on when the client goes away; its state says whether it has ended.")
	start.DefaultStatus = http.StatusAccepted
	register(s, signalbox.ScopeAdmin, start, s.startRetention)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/retention/runs/{id}", "get-retention-run", tag, "Show a run", "One under way, the last one, or one of the list."), s.getRetentionRun)
}

func (s *server) startRetention(ctx context.Context, in *retentionRunInput) (*startRetentionOutput, error) {
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, err
	}
	run := s.Retention.Start(caller(ctx).Name)
	if run.State == RetentionRunning && wait > 0 {
		if run, err = s.awaitRetention(ctx, run.ID, wait); err != nil {
			return nil, err
		}
	}
	return &startRetentionOutput{Location: "/api/v1/retention/runs/" + strconv.FormatInt(run.ID, 10), Body: run}, nil
}

func (s *server) getRetentionRun(ctx context.Context, in *getRetentionRunInput) (*retentionRunOutput, error) {
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, err
	}
	run, err := s.awaitRetention(ctx, in.ID, wait)
	if err != nil {
		return nil, err
	}
	return &retentionRunOutput{Body: run}, nil
}

// awaitRetention gives the run when it has ended, time is over or the hub stops.
func (s *server) awaitRetention(ctx context.Context, id int64, wait time.Duration) (RetentionRun, error) {
	ctx, done := s.until(ctx)
	defer done()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.Retention.Run(ctx, id)
}
