// A mutating webhook that does nothing but answer: the floor that any webhook stands on.
//
// It reads the whole review, as every webhook must, and answers with the patch in a file, which the runner makes as
// large as keyshred's own.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
)

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID string `json:"uid"`
}

type response struct {
	UID       string `json:"uid"`
	Allowed   bool   `json:"allowed"`
	PatchType string `json:"patchType"`
	Patch     []byte `json:"patch"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	certificate := flag.String("tls-cert", "", "PEM file")
	key := flag.String("tls-key", "", "PEM file")
	patchFile := flag.String("patch", "", "file with the JSON patch (RFC 6902) of every answer")
	flag.Parse()
	patch, err := os.ReadFile(*patchFile)
	if err != nil {
		log.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var asked review
		if err != nil || json.Unmarshal(body, &asked) != nil || asked.Request == nil {
			http.Error(w, "no AdmissionReview", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: &response{
			UID: asked.Request.UID, Allowed: true, PatchType: "JSONPatch", Patch: patch,
		}})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /admit", answer)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") })
	log.Fatal(http.ListenAndServeTLS(*listen, *certificate, *key, mux))
}
