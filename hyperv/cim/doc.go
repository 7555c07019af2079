// Package cim is a client of the classes that a Windows machine offers by WS-Management: those of Hyper-V, of its clusters and
// of the system. Reach for it to ask and to call them from any system, without PowerShell, over one port (5986 or 5985).
//
//	c, err := cim.Dial(ctx, "hv1.example.org", cim.Login{User: `CORP\backup`, Password: "…"}, nil)
//	for vm, err := range c.Query(ctx, cim.Virtualization, "SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'", nil) { … }
//	out, err := c.Run(ctx, service, "CreateSnapshot", []cim.Property{{Name: "AffectedSystem", Value: vm.Ref}, …}, nil)
//
// # Values
//
// The wire carries text without types; the class's schema has them, and is not on the wire. So an [Instance] keeps text, and
// [Instance.Decode] puts it into a struct of the caller's, strictly: a number that does not fit is an error that names class
// and property. What goes out is written by its Go type:
//
//	Go                        on the wire           in CIM-XML (an embedded instance)
//	string                    text                  TYPE="string"
//	bool                      true, false           boolean
//	uint8 … uint64, int8 …    decimal digits        uint8 … uint64, sint8 …
//	float64                   decimal               real64
//	time.Time                 cim:Datetime          datetime, 25 characters
//	time.Duration             cim:Interval          datetime, as an interval
//	Ref                       endpoint reference    VALUE.REFERENCE
//	Instance                  text of CIM-XML       a string with EmbeddedObject="instance"
//	[]T of these              repeated elements     VALUE.ARRAY
//	nil                       xsi:nil               no VALUE
//
// # What fails, and how
//
// A [*Fault] is the service's word: errors.Is tells fs.ErrNotExist and fs.ErrPermission, and [ErrTimedOut] and others. A
// method's own refusal is a [*ReturnError], a job's a [*JobError]. An [*UnknownError] says that a method may have run: what
// was asked for has to be looked for. Messages that only read go again where an answer was lost; a method never does.
//
// # Bounds
//
// An answer has at most 1 MiB, 100,000 elements and a depth of 40; a query yields at most Options.MaxItems instances. Every
// call ends with its context, and after Options.Timeout where that has no deadline.
//
// Sources: DSP0226 (WS-Management), DSP0227 and DSP0230 (CIM binding and mapping), DSP0004, DSP0201 (CIM-XML), [MS-WSMV].
// It met only our own fake (package hypervtest), never a Windows machine.
package cim
