// Package install puts persistent components into guests and talks to them. Reach for it on a backup server, or on a
// guest interaction proxy, that works with guests whose administrative shares and shells are closed; what runs in the
// guest is package guest/install/service.
//
// # Ways
//
// A guest gets its installer service in one of four ways. All of them lay down a kit (see [Controller.NewKit]) and run
// `hikae-agent installer setup`; none has a secret on a command line.
//
//	by hand, by script    [WriteFolder] makes a folder with the program, the kit, packages and a script
//	by policy             the same folder beside an MSI (packaging)
//	when a VM is added    [Controller.InstallOver], over any channel that is open then
//
// Packages that lie beside the kit are installed too; others come at the first session that needs them
// ([Guest.Install]).
//
// # Keys
//
// A [Controller] has one long-lived key. Kits carry its public half and a temporary key that a guest shows until it was
// seen once; making a kit voids the one before. [Controller.Enrol] meets a guest by the temporary key, learns the guest's
// own, writes its pin down, and comes back by that, which ends the temporary one. From then on each side knows the other
// by its key alone; certificates are made of them in memory and are good for a week.
package install
