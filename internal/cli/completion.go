package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
)

const (
	// completionTime bounds the question of a shell that completes a word.
	completionTime = time.Second
	// completionNames is how many names a shell is offered.
	completionNames = 100
	// completionSample is how many devices are looked at for their types.
	completionSample = 2000
)

// completeFlag has the shell complete the values of a flag that cmd has.
func completeFlag(cmd *cobra.Command, flag string, words cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, words) // fails for a flag that is not there, or has one
}

// fixed offers these words.
func fixed(words []string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// fixedList offers these words for each part of a list with commas.
func fixedList(words []string) cobra.CompletionFunc {
	return inList(func(*cobra.Command, []string, string) []string { return words })
}

// inList completes the last part of a list with commas; another may follow.
func inList(words func(cmd *cobra.Command, args []string, begun string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		at := strings.LastIndexByte(begun, ',') + 1
		before := strings.Split(begun[:at], ",")
		var offered []string
		for _, w := range words(cmd, args, begun[at:]) {
			if strings.HasPrefix(w, begun[at:]) && !slices.Contains(before, w) {
				offered = append(offered, begun[:at]+w)
			}
		}
		return offered, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// askHub asks the running hub for what a shell wants to know. The shell wants names, not
// faults: without a hub, or when it refuses, there are none.
func (c *command) askHub(cmd *cobra.Command, ask func(ctx context.Context, r *reach) []string) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), cmp.Or(c.completing, completionTime))
	defer cancel()
	r, err := c.reachHub(ctx, needHub)
	if err != nil {
		return nil
	}
	defer func() { _ = r.close() }() // nothing is under way
	return ask(ctx, r)
}

// completeDevices offers the names of devices that are not among args already.
func (c *command) completeDevices(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	return c.askHub(cmd, func(ctx context.Context, r *reach) []string {
		var names []string
		for d, err := range some(r.AllDevices(ctx, client.DeviceQuery{Prefix: begun, Limit: completionNames}), completionNames) {
			if err != nil {
				break
			}
			if !slices.Contains(args, d.Name) {
				names = append(names, d.Name+"\t"+d.Type)
			}
		}
		return names
	}), cobra.ShellCompDirectiveNoFileComp
}

// firstOnly completes the first argument alone.
func firstOnly(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, begun)
	}
}

// completeSend completes the device and, from its earlier commands, the command; what
// else it understands only the device knows.
func (c *command) completeSend(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	toType := cmd.Flags().Changed("type")
	switch {
	case len(args) == 0 && !toType:
		return c.completeDevices(cmd, args, begun)
	case len(args) == 1 && !toType:
		return c.askHub(cmd, func(ctx context.Context, r *reach) []string {
			page, err := r.Commands(ctx, args[0], completionNames, "")
			if err != nil {
				return nil
			}
			var names []string
			for i := range page.Items {
				if name := page.Items[i].Name; strings.HasPrefix(name, begun) && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
			return names
		}), cobra.ShellCompDirectiveNoFileComp
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// types gives the types of devices that the hub knows, as far as a shell's patience goes.
func (c *command) types(cmd *cobra.Command, _ []string, begun string) []string {
	return c.askHub(cmd, func(ctx context.Context, r *reach) []string {
		var types []string
		for d, err := range some(r.AllDevices(ctx, client.DeviceQuery{Limit: 1000}), completionSample) {
			if err != nil {
				break
			}
			if strings.HasPrefix(d.Type, begun) && !slices.Contains(types, d.Type) {
				types = append(types, d.Type)
			}
		}
		return types
	})
}

// completeType completes a single type.
func (c *command) completeType(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	return c.types(cmd, args, begun), cobra.ShellCompDirectiveNoFileComp
}

// fieldsOfDevice gives the fields of the latest telemetry of the device in args.
func (c *command) fieldsOfDevice(cmd *cobra.Command, args []string, _ string) []string {
	if len(args) == 0 {
		return nil
	}
	return c.askHub(cmd, func(ctx context.Context, r *reach) []string {
		state, err := r.State(ctx, args[0])
		if err != nil {
			return nil
		}
		var names []string
		e := envelopeOf(signalbox.ProtocolNone, state.Telemetry, state.Time)
		for _, f := range fieldsOf(state.Telemetry) {
			if !e.holds(f) {
				names = append(names, f.name)
			}
		}
		return names
	})
}

// completeUser completes the name of a person.
func (c *command) completeUser(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	list := func(ctx context.Context, r *reach) ([]signalbox.User, error) { return r.Users(ctx) }
	describe := func(u signalbox.User) (word, about string) { return u.Name, "" }
	return firstOnly(listed(c, list, describe))(cmd, args, begun)
}

// completeCommand completes the ID of a command among the latest.
func (c *command) completeCommand(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	list := func(ctx context.Context, r *reach) ([]signalbox.Command, error) {
		page, err := r.Commands(ctx, "", completionNames, "")
		return page.Items, err
	}
	describe := func(sent signalbox.Command) (word, about string) {
		return sent.ID, fmt.Sprintf("%s to %s, %s", sent.Name, sent.Device, sent.State)
	}
	return firstOnly(listed(c, list, describe))(cmd, args, begun)
}

// completeToken completes the name of a token.
func (c *command) completeToken(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	list := func(ctx context.Context, r *reach) ([]signalbox.Token, error) { return r.Tokens(ctx) }
	describe := func(t signalbox.Token) (word, about string) {
		return t.Name, strconv.FormatInt(t.ID, 10) + ", " + string(t.Scope)
	}
	return firstOnly(listed(c, list, describe))(cmd, args, begun)
}

// listed completes from a list of the hub's.
func listed[T any](c *command, list func(ctx context.Context, r *reach) ([]T, error), describe func(T) (word, about string)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return c.askHub(cmd, func(ctx context.Context, r *reach) []string {
			items, err := list(ctx, r)
			if err != nil {
				return nil
			}
			var words []string
			for _, item := range items {
				if word, about := describe(item); strings.HasPrefix(word, begun) {
					words = append(words, strings.TrimSuffix(word+"\t"+about, "\t"))
				}
			}
			return words
		}), cobra.ShellCompDirectiveNoFileComp
	}
}
