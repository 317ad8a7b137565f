{{/* Names are fixed: clients rely on some of them, and a cluster has one keyshred. */}}

{{- define "keyshred.labels" -}}
app.kubernetes.io/name: keyshred
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: keyshred
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "keyshred.selector" -}}
app.kubernetes.io/name: keyshred
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* metadata of an object: (list . NAME), or (list . NAME COMPONENT), or (list . NAME COMPONENT ANNOTATIONS) */}}
{{- define "keyshred.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 | quote }}
{{- $annotations := dict }}
{{- if gt (len .) 3 }}{{ $annotations = index . 3 }}{{ end }}
{{- with merge (dict) $annotations $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
labels:
  {{- include "keyshred.labels" $root | nindent 2 }}
  {{- if gt (len .) 2 }}{{ with index . 2 }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}{{ end }}
{{- end }}

{{/* The labels stay last, so that who includes this can add some. */}}
{{- define "keyshred.namespaced" -}}
namespace: {{ (index . 0).Release.Namespace }}
{{ include "keyshred.metadata" . }}
{{- end }}

{{- define "keyshred.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Who keyshred's processes are to the API server. */}}
{{- define "keyshred.user" -}}
system:serviceaccount:{{ (index . 0).Release.Namespace }}:keyshred-{{ index . 1 }}
{{- end }}

{{/* Namespaces whose Secrets are never sealed, as the items of a list. */}}
{{- define "keyshred.neverSealed" -}}
kube-system, kube-public, kube-node-lease, {{ .Release.Namespace }}
{{- end }}

{{- define "keyshred.neverSealedQuoted" -}}
'kube-system', 'kube-public', 'kube-node-lease', '{{ .Release.Namespace }}'
{{- end }}

{{/* What the cluster remembers of the token: {} before the first start, and where the chart is rendered without a cluster. */}}
{{- define "keyshred.remembered" -}}
{{- (lookup "v1" "ConfigMap" .Release.Namespace "keyshred-token").data | default dict | toJson -}}
{{- end }}

{{/* pvc or node: what was chosen before stays. */}}
{{- define "keyshred.storage" -}}
{{- $remembered := include "keyshred.remembered" . | fromJson -}}
{{- if ne .Values.evaluation.storage "auto" -}}
{{ .Values.evaluation.storage }}
{{- else if $remembered.storage -}}
{{ $remembered.storage }}
{{- else if lookup "v1" "PersistentVolumeClaim" .Release.Namespace "keyshred-token" -}}
pvc
{{- else -}}
{{- $default := "node" -}}
{{- if .Values.evaluation.storageClassName }}{{ $default = "pvc" }}{{ end -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
{{- if eq (index (.metadata.annotations | default dict) "storageclass.kubernetes.io/is-default-class" | default "") "true" }}{{ $default = "pvc" }}{{ end -}}
{{- end -}}
{{ $default }}
{{- end -}}
{{- end }}

{{/* Where the DaemonSet is. */}}
{{- define "keyshred.nodeNamespace" -}}
{{ .Values.node.namespace | default .Release.Namespace }}
{{- end }}

{{- define "keyshred.evaluation" -}}
{{- if eq .Values.mode "evaluation" }}true{{ end -}}
{{- end }}

{{/* The token URI with all that a process needs: (list . use|manage) */}}
{{- define "keyshred.tokenURI" -}}
{{- $root := index . 0 -}}
{{- if include "keyshred.evaluation" $root -}}
pkcs11:token=keyshred?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/keyshred/pin
{{- else -}}
{{- $pin := include "keyshred.pin" . | fromJson -}}
{{ $root.Values.hsm.tokenURI }}?module-path={{ $root.Values.hsm.modulePath }}&pin-source=file:{{ $pin.file | default "/etc/keyshred/pin/pin" }}
{{- end -}}
{{- end }}

{{/* Where the PIN comes from, in production: (list . use|manage) */}}
{{- define "keyshred.pin" -}}
{{- $pins := (index . 0).Values.hsm.pins -}}
{{- $pin := index $pins (index . 1) -}}
{{- if and (eq (index . 1) "manage") (not $pin.secretName) (not $pin.file) }}{{ $pin = $pins.use }}{{ end -}}
{{ $pin | toJson }}
{{- end }}

{{/* Values that contradict each other, or what is there. The schema has the rest. */}}
{{- define "keyshred.check" -}}
{{- $remembered := include "keyshred.remembered" . | fromJson -}}
{{- if and $remembered.mode (ne $remembered.mode .Values.mode) -}}
{{- fail (printf "\n\nkeyshred was installed with mode %s, and its keys are in the token %s (serial %s): mode %s would use another token, and none of the Secrets sealed so far could be read.\nSet mode: %s. If you give up those keys, delete the ConfigMap %s/keyshred-token first (docs/install.md, 'Another token')." $remembered.mode $remembered.label $remembered.serial .Values.mode $remembered.mode .Release.Namespace) -}}
{{- end -}}
{{- if and (include "keyshred.evaluation" .) $remembered.storage (ne (include "keyshred.storage" .) $remembered.storage) -}}
{{- fail (printf "\n\nthe evaluation token is on storage %q and evaluation.storage says %q, where there is none: leave it %s, or move the token as docs/install.md says." $remembered.storage (include "keyshred.storage" .) $remembered.storage) -}}
{{- end -}}
{{- if has .Release.Namespace (list "kube-system" "kube-public" "kube-node-lease") -}}
{{- fail (printf "\n\ninstall keyshred in a namespace of its own, not in %s: helm install keyshred … -n keyshred --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- if not (include "keyshred.evaluation" .) -}}
{{- if or (not .Values.hsm.tokenURI) (not .Values.hsm.modulePath) -}}
{{- fail "\n\nmode production needs hsm.tokenURI and hsm.modulePath: see docs/hsm.md" -}}
{{- end -}}
{{- if contains "?" .Values.hsm.tokenURI -}}
{{- fail "\n\nhsm.tokenURI: without query attributes; the module goes into hsm.modulePath and the PIN into hsm.pins" -}}
{{- end -}}
{{- range $kind := list "use" "manage" -}}
{{- $pin := include "keyshred.pin" (list $ $kind) | fromJson -}}
{{- if and $pin.secretName $pin.file -}}{{- fail (printf "\n\nhsm.pins.%s: give secretName or file, not both" $kind) -}}{{- end -}}
{{- if not (or $pin.secretName $pin.file) -}}{{- fail "\n\nmode production needs hsm.pins.use.secretName or hsm.pins.use.file" -}}{{- end -}}
{{- end -}}
{{- else if or .Values.hsm.tokenURI .Values.hsm.modulePath -}}
{{- fail "\n\nhsm.tokenURI and hsm.modulePath are for mode: production; with mode evaluation they would be ignored" -}}
{{- end -}}
{{- end }}

{{/* ---- pods ---- */}}

{{- define "keyshred.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "keyshred.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Init containers: (list . webhook|controller) */}}
{{- define "keyshred.initContainers" -}}
{{- $root := index . 0 }}
{{- if include "keyshred.evaluation" $root }}
{{- $storage := include "keyshred.storage" $root }}
{{- if eq $storage "node" }}
# A folder that the kubelet makes is root's. The only part of keyshred that the Pod Security Standard `restricted` refuses, with
# the volume itself; a PVC needs neither.
- name: token-folder
  image: {{ include "keyshred.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [chown, "65532:65532", /var/lib/keyshred]
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL], add: [CHOWN]}
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  volumeMounts: [{name: token, mountPath: /var/lib/keyshred}]
{{- end }}
- name: token
  image: {{ include "keyshred.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
  - evaluation-token
  - --namespace={{ $root.Release.Namespace }}
  - --storage={{ $storage }}
  - --make={{ eq (index . 1) "controller" }}
  env:
  - {name: SOFTHSM2_CONF, value: /etc/keyshred/softhsm/softhsm2.conf}
  - {name: KEYSHRED_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - {name: KEYSHRED_LOG_FORMAT, value: {{ $root.Values.logFormat }}}
  - {name: TMPDIR, value: /run/keyshred}
  securityContext: {{- include "keyshred.securityContext" $root | nindent 4 }}
  resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 256Mi}}
  volumeMounts:
  - {name: run, mountPath: /run/keyshred}
  - {name: softhsm, mountPath: /etc/keyshred/softhsm, readOnly: true}
  - {name: token, mountPath: /var/lib/keyshred}
{{- end }}
{{- end }}

{{/* Environment: (list . webhook|controller) */}}
{{- define "keyshred.env" -}}
{{- $root := index . 0 }}
- {name: KEYSHRED_NAMESPACE, value: {{ $root.Release.Namespace }}}
- {name: KEYSHRED_TOKEN_URI, value: {{ include "keyshred.tokenURI" (list $root (ternary "use" "manage" (eq (index . 1) "webhook"))) | quote }}}
- {name: KEYSHRED_HSM_DEADLINE, value: {{ $root.Values.hsm.deadline | quote }}}
- {name: KEYSHRED_LOG_LEVEL, value: {{ $root.Values.logLevel }}}
- {name: KEYSHRED_LOG_FORMAT, value: {{ $root.Values.logFormat }}}
- {name: KEYSHRED_METRICS_PORT, value: {{ $root.Values.metrics.port | quote }}}
- {name: TMPDIR, value: /run/keyshred}
{{- if include "keyshred.evaluation" $root }}
- {name: SOFTHSM2_CONF, value: /etc/keyshred/softhsm/softhsm2.conf}
{{- end }}
{{- with (index $root.Values (index . 1)).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "keyshred.volumeMounts" -}}
{{- $root := index . 0 }}
# PINs, keys of certificates and counters of the moment: memory, never a disk.
- {name: run, mountPath: /run/keyshred}
{{- if include "keyshred.evaluation" $root }}
- {name: softhsm, mountPath: /etc/keyshred/softhsm, readOnly: true}
- {name: token, mountPath: /var/lib/keyshred}
{{- else if not (include "keyshred.pin" (list $root (ternary "use" "manage" (eq (index . 1) "webhook"))) | fromJson).file }}
- {name: pin, mountPath: /etc/keyshred/pin, readOnly: true}
{{- end }}
{{- with $root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "keyshred.volumes" -}}
{{- $root := index . 0 }}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if include "keyshred.evaluation" $root }}
- name: softhsm
  configMap: {name: keyshred-softhsm}
- name: token
{{- if eq (include "keyshred.storage" $root) "pvc" }}
  persistentVolumeClaim: {claimName: keyshred-token}
{{- else }}
  hostPath: {path: {{ $root.Values.evaluation.hostPath }}, type: DirectoryOrCreate}
{{- end }}
{{- else }}
{{- $pin := include "keyshred.pin" (list $root (ternary "use" "manage" (eq (index . 1) "webhook"))) | fromJson }}
{{- if not $pin.file }}
- name: pin
  secret: {secretName: {{ $pin.secretName }}, defaultMode: 0440, items: [{key: {{ $pin.key }}, path: pin}]}
{{- end }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where the pods run: (list . webhook|controller) */}}
{{- define "keyshred.placement" -}}
{{- $root := index . 0 }}
{{- $values := index $root.Values (index . 1) }}
{{- $nodeSelector := $values.nodeSelector }}
{{- $affinity := $values.affinity }}
{{- if include "keyshred.evaluation" $root }}
{{- if and (eq (include "keyshred.storage" $root) "node") $root.Values.evaluation.nodeName }}
{{- $nodeSelector = merge (dict "kubernetes.io/hostname" $root.Values.evaluation.nodeName) $nodeSelector }}
{{- end }}
{{- $together := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "keyshred.dev/token" "evaluation")) }}
{{- $podAffinity := $affinity.podAffinity | default dict }}
{{- $required := append ($podAffinity.requiredDuringSchedulingIgnoredDuringExecution | default list) $together }}
{{- $affinity = merge (dict "podAffinity" (merge (dict "requiredDuringSchedulingIgnoredDuringExecution" $required) $podAffinity)) $affinity }}
{{- end }}
{{- with $nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* metadata of a pod template: (list . webhook|controller) */}}
{{- define "keyshred.podMetadata" -}}
{{- $root := index . 0 }}
{{- $values := index $root.Values (index . 1) }}
labels:
  {{- include "keyshred.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  keyshred.dev/metrics: "true"
  {{- if include "keyshred.evaluation" $root }}
  keyshred.dev/token: evaluation
  {{- end }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) $values.podAnnotations $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
