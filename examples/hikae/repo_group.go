package main

import "github.com/spf13/cobra"

// repoCommand gathers what is done to a repository as a whole and seldom.
func (t *tool) repoCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "repo", Short: "Look after a repository as a whole: its history, its log, the places that it is kept in"}
	cmd.AddCommand(t.adoptCommand(), t.auditCommand(), t.condenseCommand(), t.endSessionCommand(), t.lockCommand(), t.mendLogCommand(), t.stripeCommand(), t.upgradeCommand())
	return cmd
}
