package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/internal/app"
)

func (c *command) userCommand() *cobra.Command {
	return parent("user", "Add, list and remove people, set their passwords",
		"People log in to the page with a name and a password. All of them are admins.",
		"  signalbox user add anna\n  signalbox user passwd admin\n  signalbox user list",
		c.userAddCommand(), c.userPasswordCommand(), c.userListCommand(), c.userRemoveCommand())
}

func (c *command) userAddCommand() *cobra.Command {
	cmd := c.passwordCommand(func(ctx context.Context, name, password string) error {
		return c.withPlace(ctx, func(r *reach) error {
			user, err := r.AddUser(ctx, name, password)
			if err != nil {
				return err
			}
			if c.flags.json {
				return c.printJSON(user)
			}
			return c.done(name, "added")
		})
	})
	cmd.Use = "add NAME"
	cmd.Short = "Add a person; the password is asked for, unseen"
	cmd.Example = "  signalbox user add anna\n  pass show anna | signalbox user add anna --password-stdin"
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (c *command) userPasswordCommand() *cobra.Command {
	cmd := c.passwordCommand(func(ctx context.Context, name, password string) error {
		return c.withHub(ctx, func(r *reach) error {
			if err := r.SetPassword(ctx, name, password); err != nil {
				return err
			}
			return c.done(name, "password changed")
		})
	})
	cmd.Use = "passwd NAME"
	cmd.Short = "Give a person a new password; all their browser logins end"
	cmd.Example = "  signalbox user passwd admin\n  echo 'a long new password' | signalbox user passwd admin --password-stdin"
	cmd.ValidArgsFunction = c.completeUser
	return cmd
}

// passwordCommand is a command that gets a password for the person its argument names.
func (c *command) passwordCommand(do func(ctx context.Context, name, password string) error) *cobra.Command {
	var fromStdin bool
	cmd := &cobra.Command{
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := c.askPassword(cmd.Context(), fromStdin, args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), args[0], password)
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "take the password from the first line of standard input")
	return cmd
}

func (c *command) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List people",
		Example: "  signalbox user list",
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				t := newTable("NAME", "ADDED")
				return printList(c, whole(r.Users(cmd.Context())), t, func(u signalbox.User) {
					t.add(nil, u.Name, timeText(u.CreatedAt))
				})
			})
		},
	}
}

func (c *command) userRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"remove"},
		Short:             "Remove a person; the last one stays",
		Example:           "  signalbox user rm anna",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forEachName(cmd.Context(), args, "removed", func(ctx context.Context, r *reach, name string) error {
				return r.RemoveUser(ctx, name)
			})
		},
	}
}

func (c *command) tokenCommand() *cobra.Command {
	return parent("token", "Make, list and revoke the tokens of programs",
		"A program shows a token to the API: «Authorization: Bearer sbx_…». Its scope is read (look at\neverything), command (and send commands) or admin (all).",
		"  signalbox token create controller --scope command --expires 90d\n  signalbox token list\n  signalbox token revoke controller",
		c.tokenCreateCommand(), c.tokenListCommand(), c.tokenRevokeCommand())
}

func (c *command) tokenCreateCommand() *cobra.Command {
	var scope, expires string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it, this once",
		Example: `  signalbox token create controller --scope command
  signalbox token create grafana --scope read --expires 90d
  signalbox token create backup --scope admin --json | jq -r .secret > token`,
		Args:              between(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("scope", scope, scopes()); err != nil {
				return err
			}
			var life time.Duration
			if expires != "" {
				var err error
				if life, err = app.ParseDuration(expires); err != nil || life == 0 {
					return usagef("--expires %s is no duration; allowed are such as 12h or 90d", expires)
				}
			}
			return c.withPlace(cmd.Context(), func(r *reach) error {
				secret, token, err := r.MakeToken(cmd.Context(), args[0], signalbox.Scope(scope), life)
				if err != nil {
					return err
				}
				if c.flags.json {
					return c.printJSON(map[string]any{"token": token, "secret": secret})
				}
				c.notef("The token %s (%s), shown this once:\n", clean(args[0]), scope)
				return c.printf("%s\n", secret)
			})
		},
	}
	cmd.Flags().StringVar(&scope, "scope", "read", "what it may do: read, command or admin")
	cmd.Flags().StringVar(&expires, "expires", "", "how long it holds, such as 12h or 90d (default: until it is revoked)")
	completeFlag(cmd, "scope", fixed(scopes()))
	return cmd
}

// scopes are the words for what a token may do.
func scopes() []string {
	return []string{string(signalbox.ScopeRead), string(signalbox.ScopeCommand), string(signalbox.ScopeAdmin)}
}

func (c *command) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List tokens; their secrets are not kept",
		Example: "  signalbox token list",
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				now := time.Now()
				t := newTable("ID", "NAME", "SCOPE", "MADE BY", "MADE", "EXPIRES", "LAST USED")
				return printList(c, whole(r.Tokens(cmd.Context())), t, func(token signalbox.Token) {
					t.add(nil, strconv.FormatInt(token.ID, 10), token.Name, string(token.Scope), token.CreatedBy, timeText(token.CreatedAt), timeText(token.ExpiresAt), sinceText(token.LastUsed, now))
				})
			})
		},
	}
}

func (c *command) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "revoke NAME|ID",
		Aliases:           []string{"rm"},
		Short:             "Revoke a token; it is worth nothing from then on",
		Example:           "  signalbox token revoke controller",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forEachName(cmd.Context(), args, "revoked", func(ctx context.Context, r *reach, which string) error {
				return r.RevokeToken(ctx, which)
			})
		},
	}
}
