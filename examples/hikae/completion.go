package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
)

// completionDoc is what completion prints for scripts.
type completionDoc struct {
	Shell  string `json:"shell"`
	Script string `json:"script"`
}

func (t *tool) completionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes commands in a shell",
		Long:  "Print a script that completes hikae's commands and flags in SHELL: bash, zsh, fish or powershell.",
		Example: example(`
source <(hikae completion bash)                                   # this shell
hikae completion bash > /etc/bash_completion.d/hikae              # every bash
hikae completion zsh > "${fpath[1]}/_hikae"                       # every zsh
hikae completion fish > ~/.config/fish/completions/hikae.fish     # every fish`),
		Args:      want("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
	}
	cmd.RunE = t.act(func(_ context.Context, args []string) (*reply, error) {
		var b bytes.Buffer
		if err := complete(cmd.Root(), args[0], &b); err != nil {
			return nil, err
		}
		return &reply{doc: completionDoc{Shell: args[0], Script: b.String()}, loud: true,
			text: func(w *show.Printer) error { _, err := w.W.Write(b.Bytes()); return err }}, nil
	})
	return cmd
}

func complete(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(w)
	}
	return outcome.Usage("Name one of bash, zsh, fish, powershell.", "there is no completion for %q", shell)
}

// completeWith lets a flag be completed with fixed words.
func completeWith(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(fmt.Sprintf("completion of --%s: %v", flag, err)) // only where the flag is not defined
	}
}
