package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"signalbox"
	"signalbox/client"
)

// removeAtOnce is how many removals are under way at the same time.
const removeAtOnce = 8

type removeFlags struct {
	yes    bool
	kinds  []string
	prefix string
}

func (f removeFlags) chooses() bool { return len(f.kinds) > 0 || f.prefix != "" }

func (c *command) deviceRemoveCommand() *cobra.Command {
	var f removeFlags
	cmd := &cobra.Command{
		Use:     "rm NAME… | --type TYPE | --prefix BEGINNING",
		Aliases: []string{"remove"},
		Short:   "Remove devices; their history is out of reach from then on",
		Long: `Removes the devices named, or with --type and --prefix all devices that fit both. On a terminal it says how
many there are and asks first; elsewhere a choice by --type or --prefix needs --yes.`,
		Example: `  signalbox device rm esp01
  signalbox device rm esp01 esp02 --yes
  signalbox device rm --prefix sim- --yes --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.chooses() && len(args) > 0:
				return usagef("names and --type or --prefix exclude each other")
			case f.chooses():
				return nil
			default:
				return between(1, -1)(cmd, args)
			}
		},
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.chooses() {
				return c.removeChosen(cmd.Context(), f)
			}
			if err := c.confirm(cmd.Context(), f.yes, "Remove "+strings.Join(args, ", ")+" and their history?"); err != nil {
				return err
			}
			return c.forEachName(cmd.Context(), args, "removed", func(ctx context.Context, r *reach, name string) error {
				return r.RemoveDevice(ctx, name)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	flags.StringSliceVar(&f.kinds, "type", nil, "all devices of this type; may be repeated")
	flags.StringVar(&f.prefix, "prefix", "", "all devices whose name begins so")
	completeFlag(cmd, "type", inList(c.types))
	completeFlag(cmd, "prefix", c.completeDevices)
	return cmd
}

// removeChosen removes all devices of a type or with a beginning of their names.
func (c *command) removeChosen(ctx context.Context, f removeFlags) error {
	if _, ok := terminal(c.Stdin); !ok && !f.yes {
		return usagef("there is no terminal to ask whether so many devices shall go; add --yes, or see them first with «signalbox device list»")
	}
	return c.withHub(ctx, func(r *reach) error {
		var names []string
		for d, err := range r.AllDevices(ctx, client.DeviceQuery{Types: f.kinds, Prefix: f.prefix, Limit: 1000}) {
			if err != nil {
				return err
			}
			names = append(names, d.Name)
		}
		if len(names) == 0 {
			return signalbox.Errorf(signalbox.KindNotFound, "no_devices", "there is no such device; nothing was removed")
		}
		shown := names[0]
		if n := len(names); n > 1 {
			shown = fmt.Sprintf("%d devices, %s to %s", n, names[0], names[n-1])
		}
		if err := c.confirm(ctx, f.yes, "Remove "+shown+", and their history?"); err != nil {
			return err
		}
		removed, err := c.removeDevices(ctx, r, names)
		return errors.Join(c.printRemoved(removed), err)
	})
}

func (c *command) printRemoved(n int) error {
	if c.flags.json {
		return c.printJSON(map[string]int{"removed": n})
	}
	return c.printf("devices removed: %d\n", n)
}

// removeDevices removes devices, some at the same time, and stops at the first fault. One
// that is gone already is passed over.
func (c *command) removeDevices(ctx context.Context, r *reach, names []string) (removed int, err error) {
	bar := c.progress("devices", len(names))
	defer bar.end()
	var mu sync.Mutex // of removed and bar
	removing, goOn := errgroup.WithContext(ctx)
	removing.SetLimit(removeAtOnce)
	for _, name := range names {
		if goOn.Err() != nil {
			break
		}
		removing.Go(func() error {
			err := r.RemoveDevice(goOn, name)
			if signalbox.KindOf(err) == signalbox.KindNotFound {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			removed++
			bar.at(removed)
			return nil
		})
	}
	if err = removing.Wait(); err == nil {
		err = ctx.Err()
	}
	return removed, err
}

// forEachName does something with each name and tells what was done. What is wrong with one name
// keeps nobody from the others, and is told at the end.
func (c *command) forEachName(ctx context.Context, names []string, done string, do func(ctx context.Context, r *reach, name string) error) error {
	return c.withHub(ctx, func(r *reach) error {
		var faults []error
		for _, name := range names {
			err := do(ctx, r, name)
			switch signalbox.KindOf(err) {
			case signalbox.KindNotFound, signalbox.KindConflict, signalbox.KindInvalid:
				faults = append(faults, err)
				continue
			default:
			}
			if err == nil {
				err = c.done(name, done)
			}
			if err != nil {
				return errors.Join(append(faults, err)...)
			}
		}
		return errors.Join(faults...)
	})
}

// confirm asks on a terminal; elsewhere, and with yes, there is nothing to ask. When ctx
// ends first, the goroutine that reads ends with the process.
func (c *command) confirm(ctx context.Context, yes bool, question string) error {
	if _, ok := terminal(c.Stdin); yes || !ok {
		return nil
	}
	c.notef("%s [y/N] ", clean(question))
	answered := make(chan bool, 1)
	go func() {
		answer, err := bufio.NewReader(c.Stdin).ReadString('\n')
		word := strings.ToLower(strings.TrimSpace(answer))
		answered <- err == nil && (word == "y" || word == "yes")
	}()
	select {
	case ok := <-answered:
		if !ok {
			return errors.New("nothing was done")
		}
		return nil
	case <-ctx.Done():
		c.notef("\n")
		return ctx.Err()
	}
}
