package vmwaretest

import "errors"

// service is a part of the server beside SOAP: files of datastores, leases, tickets, attachments.
type service interface {
	start() error        // once, after the server listens
	leftovers() []string // what clients left behind, in words
	stop() error         // once
}

// newServices are those that a server has.
func newServices(s *Server) []service {
	s.extras = newExtras(s)
	return []service{s.extras, s.nases}
}

func (s *Server) startServices() error {
	for _, p := range newServices(s) {
		if err := p.start(); err != nil {
			return errors.Join(err, s.stopServices())
		}
		s.services = append(s.services, p)
	}
	return nil
}

func (s *Server) stopServices() error {
	var errs []error
	for _, p := range s.services {
		errs = append(errs, p.stop())
	}
	s.services = nil
	return errors.Join(errs...)
}
