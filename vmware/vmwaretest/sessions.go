package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Sessions are the keys of those that are logged in.
func (s *Server) Sessions() (out []string) {
	for _, u := range s.sessionList() {
		out = append(out, u.Key)
	}
	return out
}

// ExpireSessions ends all sessions, as half an hour of silence does. Tasks go on.
func (s *Server) ExpireSessions() {
	keys := s.Sessions()
	ctx := s.context()
	for _, key := range keys { // one by one: some may end by themselves meanwhile
		s.reg.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{key}})
	}
}

func (s *Server) sessionList() []types.UserSession {
	view := &simulator.Session{Registry: simulator.NewRegistry(), Map: s.reg}
	m, ok := view.Get(s.reg.SessionManager().Self).(*simulator.SessionManager)
	if !ok {
		return nil
	}
	var out []types.UserSession
	for _, u := range m.SessionList {
		if u.UserName != "" {
			out = append(out, u)
		}
	}
	return out
}

// SessionUser is whose session that of a cookie vmware_soap_session is.
func (s *Server) SessionUser(cookie string) (string, bool) { return s.userOf(cookie) }

func (s *Server) userOf(key string) (string, bool) {
	for _, u := range s.sessionList() {
		if u.Key == key {
			return u.UserName, true
		}
	}
	return "", false
}
