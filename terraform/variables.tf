variable "app_name" {
  description = "Name of the application."
  type        = string
  default     = "nova-compute-nvidia-vgpu"
  nullable    = false
}

variable "base" {
  description = "Ubuntu of the compute hosts, e.g. ubuntu@24.04; null leaves it to the charm."
  type        = string
  default     = null
}

variable "channel" {
  description = "Channel of the charm; null is the charm's default one."
  type        = string
  default     = null
}

variable "config" {
  description = "Options of the charm, see its config.yaml, e.g. vgpu-device-mappings."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(setsubtract(keys(var.config), [
      "force-install-nvidia-vgpu",
      "live-migratable",
      "passthrough-devices",
      "report-in-placement",
      "vgpu-device-mappings",
    ])) == 0
    error_message = "The charm has the options force-install-nvidia-vgpu, live-migratable, passthrough-devices, report-in-placement and vgpu-device-mappings."
  }
}

variable "model_uuid" {
  description = "UUID of the model in which nova-compute is."
  type        = string
  nullable    = false
}

variable "resources" {
  description = "Revision of the resource nvidia-vgpu-software; NVIDIA's file itself is attached with juju attach-resource."
  type        = map(string)
  default     = null
}

variable "revision" {
  description = "Revision of the charm; null is the channel's newest."
  type        = number
  default     = null
}
