package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const requestTimeout = 30 * time.Second

// side is one kind of request, sent again and again. "{i}" in URL and Body is the number of the request: First,
// First+1, and so on; "{n}" is the same, modulo Modulo where that is not 0.
type side struct {
	Name     string            `json:"name"`
	Method   string            `json:"method"`
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	Want     int               `json:"want"`
	First    int64             `json:"first"`
	Modulo   int64             `json:"modulo"`
	InFlight int               `json:"inFlight"`
	CA       string            `json:"ca"`
	Cert     string            `json:"cert"`
	Key      string            `json:"key"`
	HTTP2    bool              `json:"http2"`

	client *http.Client
	next   atomic.Int64
}

func (s *side) prepare() error {
	to, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(to.Hostname()); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s: only loopback is called", s.Name)
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	s.client = &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig:     config,
			MaxIdleConnsPerHost: s.InFlight,
			ForceAttemptHTTP2:   s.HTTP2,
			DisableCompression:  true,
		},
	}
	s.next.Store(s.First)
	return nil
}

// send sends the next request and reads the whole answer. The body is kept only where the status is not the wanted one.
func (s *side) send() (status int, body string, took time.Duration, err error) {
	i := s.next.Add(1) - 1
	n := i
	if s.Modulo > 0 {
		n %= s.Modulo
	}
	fill := strings.NewReplacer("{i}", strconv.FormatInt(i, 10), "{n}", strconv.FormatInt(n, 10))
	request, err := http.NewRequest(s.Method, fill.Replace(s.URL), strings.NewReader(fill.Replace(s.Body)))
	if err != nil {
		return 0, "", 0, err
	}
	for name, value := range s.Headers {
		request.Header.Set(name, value)
	}
	started := time.Now()
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, "", 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == s.Want {
		_, err = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode, "", time.Since(started), err
	}
	wrong, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(wrong), time.Since(started), err
}

// sendWanted is send for those who accept the wanted status alone.
func (s *side) sendWanted() (time.Duration, error) {
	status, body, took, err := s.send()
	if err == nil && status != s.Want {
		err = fmt.Errorf("%s: HTTP %d, not %d: %s", s.Name, status, s.Want, body)
	}
	return took, err
}
