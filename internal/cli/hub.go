package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// withHub reaches the hub, calls do and lets go of it. Without a hub there must be data.
func (c *command) withHub(ctx context.Context, do func(r *reach) error) error {
	return c.within(ctx, needData, do)
}

// withPlace is withHub for commands that may be the first ever: they make the data
// directory where it is missing.
func (c *command) withPlace(ctx context.Context, do func(r *reach) error) error {
	return c.within(ctx, needPlace, do)
}

func (c *command) within(ctx context.Context, what need, do func(r *reach) error) (err error) {
	r, err := c.reachHub(ctx, what)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return do(r)
}

// some gives the first n of items; n 0 means all.
func some[T any](items iter.Seq2[T, error], n int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		left := n
		for item, err := range items {
			if !yield(item, err) {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// whole makes a list that is there already into one that is walked through.
func whole[T any](items []T, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		for item := range slices.Values(items) {
			if !yield(item, nil) {
				return
			}
		}
	}
}

// printList prints a list: as a JSON array, or as a table to which row adds each item.
func printList[T any](c *command, items iter.Seq2[T, error], t *table, row func(T)) error {
	if !c.flags.json {
		for item, err := range items {
			if err != nil {
				return err
			}
			row(item)
		}
		return t.write(c.Stdout, c.paint())
	}
	separator := "["
	for item, err := range items {
		if err != nil {
			return err
		}
		text, err := json.Marshal(item)
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		if err := c.printf("%s%s", separator, text); err != nil {
			return err
		}
		separator = ",\n "
	}
	if separator == "[" {
		return c.printf("[]\n")
	}
	return c.printf("]\n")
}

// done tells that something was done to what name stands for.
func (c *command) done(name, what string) error {
	if c.flags.json {
		return c.printJSON(map[string]string{"name": name, "done": what})
	}
	return c.printf("%s: %s\n", clean(name), what)
}
