package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"signalbox/client"
)

// deadColumns is how much of a dead letter a table shows.
const deadColumns = 60

func (c *command) deadCommand() *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use:   "dead NAME",
		Short: "List what a receiver did not take (dead letters)",
		Long: `Messages that a webhook's receiver refused for good, or once too often, newest first. --json shows them whole.
«resend» tries them again, «drop» forgets them.`,
		Example:           "  signalbox forwarder dead hook\n  signalbox forwarder dead hook --limit 0 --json",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeForwarder,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d: allowed are 0 (all) and more", limit)
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				t := newTable("ID", "GIVEN UP", "DEVICE", "TRIES", "REASON", "MESSAGE")
				letters := some(r.AllDeadLetters(cmd.Context(), args[0], min(limit, 1000)), limit)
				return printList(c, letters, t, func(l client.DeadLetter) {
					body := deadContent(l.Body)
					if body == "" && len(l.BodyBase64) > 0 {
						body = fmt.Sprintf("(%d bytes)", len(l.BodyBase64))
					}
					t.add(nil, strconv.FormatInt(l.ID, 10), timeText(l.DiedAt), l.Device, strconv.Itoa(l.Attempts), l.Reason, cutText(body, deadColumns))
				})
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most; 0: all")
	return cmd
}

// deadContent gives what a message tells, without what is around it: the object of a line, the data
// of a CloudEvent. Of others it gives all.
func deadContent(body string) string {
	var m struct{ Object, Data, Presence, Command json.RawMessage }
	if json.Unmarshal([]byte(body), &m) != nil {
		return body
	}
	for _, part := range []json.RawMessage{m.Object, m.Data, m.Presence, m.Command} {
		if len(part) > 0 {
			return string(part)
		}
	}
	return body
}

func (c *command) resendCommand() *cobra.Command {
	cmd := c.chooseDeadCommand(nil, "sent again", (*client.Hub).ResendDeadLetters)
	cmd.Use = "resend NAME ID… | NAME --all"
	cmd.Short = "Send dead letters again"
	cmd.Example = "  signalbox forwarder resend hook 17 18\n  signalbox forwarder resend hook --all"
	return cmd
}

func (c *command) dropCommand() *cobra.Command {
	var yes bool
	cmd := c.chooseDeadCommand(&yes, "dropped", (*client.Hub).DropDeadLetters)
	cmd.Use = "drop NAME ID… | NAME --all"
	cmd.Short = "Forget dead letters"
	cmd.Example = "  signalbox forwarder drop hook 17\n  signalbox forwarder drop hook --all --yes"
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// chooseDeadCommand is a command about some dead letters or all; yes is nil when nothing is lost.
func (c *command) chooseDeadCommand(yes *bool, done string, do func(h *client.Hub, ctx context.Context, name string, ids ...int64) (int, error)) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Args:              between(1, -1),
		ValidArgsFunction: c.completeForwarder,
		RunE: func(cmd *cobra.Command, args []string) error {
			var ids []int64
			for _, text := range args[1:] {
				id, err := strconv.ParseInt(strings.TrimPrefix(text, "#"), 10, 64)
				if err != nil || id <= 0 {
					return usagef("%q is no dead letter's ID; «signalbox forwarder dead %s» lists them", text, args[0])
				}
				ids = append(ids, id)
			}
			switch {
			case all && len(ids) > 0:
				return usagef("IDs and --all exclude each other")
			case !all && len(ids) == 0:
				return usagef("which ones? Name their IDs, or all of them with --all")
			}
			if yes != nil {
				which := "these dead letters"
				if all {
					which = "all dead letters"
					if err := c.mustAsk(*yes); err != nil {
						return err
					}
				}
				if err := c.confirm(cmd.Context(), *yes, "Drop "+which+" of "+args[0]+"?"); err != nil {
					return err
				}
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				n, err := do(r.Hub, cmd.Context(), args[0], ids...)
				if err != nil {
					return err
				}
				if c.flags.json {
					return c.printJSON(map[string]int{"count": n})
				}
				return c.printf("dead letters %s: %d\n", done, n)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	return cmd
}
