package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox/client"
)

// retentionWait is how long one question for the end of a run waits.
const retentionWait = 30 * time.Second

func (c *command) retentionCommand() *cobra.Command {
	var run bool
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Show how much history is kept, and what was dropped",
		Long: `Shows the rules of history.keep with the number of devices each is for, what the latest runs dropped since
the hub was started, the totals, and when the next run is. --run drops now what is too old or too much,
and tells what that was, by rule and type of device; it goes on when this command is interrupted. Rules
are set in the configuration.

A device that is called retention is asked by «signalbox history -- retention».`,
		Example:           "  signalbox history retention\n  signalbox history retention --run",
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return c.withHub(ctx, func(r *reach) error {
				if run {
					return c.runRetention(ctx, r)
				}
				return c.showRetention(ctx, r)
			})
		},
	}
	cmd.Flags().BoolVar(&run, "run", false, "drop now what is too old or too much")
	return cmd
}

func (c *command) showRetention(ctx context.Context, r *reach) error {
	state, err := r.Retention(ctx)
	if err != nil {
		return err
	}
	if c.flags.json {
		return c.printJSON(state)
	}
	if err := c.printRules(&state); err != nil {
		return err
	}
	now := time.Now()
	next := ""
	if !state.NextAt.IsZero() {
		next = fmt.Sprintf("; the next run is at %s", timeText(state.NextAt))
	}
	switch last := state.Last; {
	case !r.alive:
		err = c.printf("\nNo hub runs at present: the rules are applied when one does, or now with --run.\n")
	case state.Running != nil:
		err = c.printf("\nA run is under way since %s: %s.\n", timeText(state.Running.StartedAt), amountText(&state.Running.RetentionAmount, state.Running.ReclaimedBytes))
	case last == nil:
		err = c.printf("\nThere was no run since the hub was started%s.\n", next)
	default:
		err = c.printf("\nThe last run was %s ago: %s%s.\n", sinceText(last.StartedAt, now), cmp.Or(faultText(last), amountText(&last.RetentionAmount, last.ReclaimedBytes)), next)
	}
	if err != nil {
		return err
	}
	if t := &state.Totals; t.Runs > 0 {
		if err := c.printf("Since %s (runs: %d): %s.\n", timeText(t.Since), t.Runs, amountText(&t.RetentionAmount, t.ReclaimedBytes)); err != nil {
			return err
		}
	}
	return c.printRuns(state.Runs)
}

func (c *command) printRules(state *client.Retention) error {
	if len(state.Rules) == 0 {
		return c.printf("There are no rules (history.keep): all history is kept, save that of removed devices.\n")
	}
	t := newTable("RULE", "FOR", "DEVICES")
	for _, rule := range state.Rules {
		who := "all others"
		switch {
		case rule.Name != "":
			who = rule.Scope + " " + rule.Name
		case len(state.Rules) == 1:
			who = "all"
		}
		t.add(nil, rule.Rule, who, strconv.Itoa(rule.Devices))
	}
	if state.WithoutRule > 0 {
		t.add(nil, "all is kept", "no rule", strconv.Itoa(state.WithoutRule))
	}
	return t.write(c.Stdout, c.paint())
}

func (c *command) printRuns(runs []client.RetentionRun) error {
	if len(runs) == 0 {
		return nil
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	t := newTable("RUN", "TOOK", "ASKED BY", "RULE", "OF", "MESSAGES", "CHUNKS", "SIZE")
	for i := range runs {
		run := &runs[i]
		begun, took, by := timeText(run.StartedAt), tookText(run), cmp.Or(run.AskedBy, "the clock")
		if fault := faultText(run); fault != "" || len(run.Dropped) == 0 {
			t.add(nil, begun, took, by, "", cmp.Or(fault, "nothing to drop"), "0", "0", "")
			begun, took, by = " ", " ", " "
		}
		for _, p := range run.Dropped {
			t.add(nil, append([]string{begun, took, by}, partCells(&p)...)...)
			begun, took, by = " ", " ", " "
		}
	}
	return t.write(c.Stdout, c.paint())
}

// runRetention has the hub do it, and tells what it did when it has ended.
func (c *command) runRetention(ctx context.Context, r *reach) error {
	run, err := r.RunRetention(ctx, retentionWait)
	for err == nil && run.State == "running" {
		if err = ctx.Err(); err == nil {
			run, err = r.RetentionRun(ctx, run.ID, retentionWait)
		}
	}
	if err != nil {
		return err
	}
	var failed error
	if fault := faultText(&run); fault != "" {
		failed = failureError{errors.New("the run " + fault)}
	}
	if c.flags.json {
		return errors.Join(c.printJSON(run), failed)
	}
	if len(run.Dropped) > 0 {
		t := newTable("RULE", "OF", "MESSAGES", "CHUNKS", "SIZE")
		for _, p := range run.Dropped {
			t.add(nil, partCells(&p)...)
		}
		if err := t.write(c.Stdout, c.paint()); err != nil {
			return err
		}
	}
	if err := c.printf("In %s: %s.\n", tookText(&run), amountText(&run.RetentionAmount, run.ReclaimedBytes)); err != nil {
		return err
	}
	return failed
}

func tookText(run *client.RetentionRun) string {
	return (time.Duration(run.TookMs) * time.Millisecond).String()
}

// amountText says how much was dropped, and how much room was given back to the system.
func amountText(a *client.RetentionAmount, reclaimed int64) string {
	var texts []string
	if a.Chunks > 0 {
		texts = append(texts, fmt.Sprintf("%d messages in %d chunks dropped (%s)", a.Messages, a.Chunks, sizeText(a.Bytes)))
	}
	if plain := plainText(a); plain != "" {
		texts = append(texts, plain+" of the plain table dropped")
	}
	if texts == nil {
		return "nothing was dropped"
	}
	text := strings.Join(texts, ", ")
	if reclaimed > 0 {
		text += fmt.Sprintf(", %s given back to the system", sizeText(reclaimed))
	}
	return text
}

// faultText says how a run failed, "" when it did not.
func faultText(run *client.RetentionRun) string {
	if run.State != "failed" {
		return ""
	}
	return "failed: " + run.Error
}

// plainText says how much of the plain table was dropped, "" when nothing was.
func plainText(a *client.RetentionAmount) string {
	var texts []string
	if a.PlainDays > 0 {
		texts = append(texts, fmt.Sprintf("%d days", a.PlainDays))
	}
	if a.PlainRows > 0 {
		texts = append(texts, fmt.Sprintf("%d rows", a.PlainRows))
	}
	return strings.Join(texts, " and ")
}

// partCells is a part of an account in a table: rule, of, messages, chunks, size.
func partCells(p *client.RetentionPart) []string {
	if p.Of == "plain" {
		return []string{p.Rule, partText(p), "", "", ""}
	}
	return []string{p.Rule, partText(p), strconv.FormatInt(p.Messages, 10), strconv.FormatInt(p.Chunks, 10), sizeText(p.Bytes)}
}

// partText says what a part of an account is of.
func partText(p *client.RetentionPart) string {
	switch p.Of {
	case "events":
		return "presence, commands, alerts"
	case "removed":
		return "removed devices"
	case "plain":
		return "plain table: " + plainText(&p.RetentionAmount)
	case "others":
		return "others"
	default:
		return "type " + p.Type
	}
}
