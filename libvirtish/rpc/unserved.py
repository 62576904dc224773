"""Real procedures that clients call and that are not served: their answer names them."""

from __future__ import annotations

_TEXT = """
8 domain_attach_device, 13 domain_detach_device, 20 domain_get_vcpus, 32 domain_set_vcpus,
39 network_create, 41 network_define_xml, 42 network_destroy, 43 network_get_xml_desc,
44 network_get_autostart, 45 network_get_bridge_name, 46 network_lookup_by_name,
48 network_set_autostart, 49 network_undefine, 52 connect_num_of_networks,
53 domain_core_dump, 54 domain_restore, 55 domain_save, 56 domain_get_scheduler_type,
57 domain_get_scheduler_parameters, 64 domain_block_stats, 65 domain_interface_stats,
77 storage_pool_define_xml, 78 storage_pool_create, 79 storage_pool_build,
80 storage_pool_destroy, 82 storage_pool_undefine, 83 storage_pool_refresh,
84 storage_pool_lookup_by_name, 86 storage_pool_lookup_by_volume, 87 storage_pool_get_info,
88 storage_pool_get_xml_desc, 89 storage_pool_get_autostart, 90 storage_pool_set_autostart,
91 storage_pool_num_of_volumes, 92 storage_pool_list_volumes, 93 storage_vol_create_xml,
94 storage_vol_delete, 95 storage_vol_lookup_by_name, 96 storage_vol_lookup_by_key,
97 storage_vol_lookup_by_path, 98 storage_vol_get_info, 99 storage_vol_get_xml_desc,
100 storage_vol_get_path, 101 node_get_cells_free_memory, 111 node_num_of_devices,
112 node_list_devices, 114 node_device_get_xml_desc, 121 domain_get_security_label,
122 node_get_security_model, 125 storage_vol_create_xml_from,
135 connect_domain_xml_from_native, 136 connect_domain_xml_to_native,
139 connect_num_of_secrets, 152 network_is_active, 153 network_is_persistent,
154 storage_pool_is_active, 155 storage_pool_is_persistent, 156 interface_is_active,
160 domain_attach_device_flags, 163 domain_get_job_info, 164 domain_abort_job,
165 storage_vol_wipe, 174 domain_update_device_flags, 178 connect_num_of_nwfilters,
182 domain_managed_save, 185 domain_snapshot_create_xml, 186 domain_snapshot_get_xml_desc,
189 domain_snapshot_lookup_by_name, 190 domain_has_current_snapshot,
191 domain_snapshot_current, 192 domain_revert_to_snapshot, 193 domain_snapshot_delete,
194 domain_get_block_info, 199 domain_set_vcpus_flags, 203 connect_get_sysinfo,
204 domain_set_memory_flags, 207 domain_migrate_set_max_speed, 208 storage_vol_upload,
209 storage_vol_download, 210 domain_inject_nmi, 211 domain_screenshot, 226 domain_send_key,
227 node_get_cpu_stats, 228 node_get_memory_stats, 230 domain_get_vcpu_pin_info,
235 domain_save_image_get_xml_desc, 238 domain_get_block_job_info,
242 domain_migrate_get_max_speed, 243 domain_block_stats_flags,
244 domain_snapshot_get_parent, 246 domain_snapshot_num_children, 251 domain_block_resize,
253 domain_get_block_io_tune, 257 domain_get_interface_parameters,
259 storage_vol_wipe_pattern, 260 storage_vol_resize, 262 domain_get_cpu_stats,
263 domain_get_disk_errors, 264 domain_set_metadata, 265 domain_get_metadata,
271 domain_snapshot_is_current, 272 domain_snapshot_has_metadata,
277 domain_get_hostname, 280 domain_get_emulator_pin_info,
282 storage_pool_list_all_volumes,
290 domain_block_commit, 291 network_update,
293 node_get_cpu_map, 298 domain_get_job_stats, 302 domain_migrate_begin3_params,
313 connect_network_event_register_any, 314 connect_network_event_deregister_any,
337 domain_get_time, 341 network_get_dhcp_leases, 349 domain_get_fsinfo,
353 domain_interface_addresses, 368 connect_storage_pool_event_register_any,
369 connect_storage_pool_event_deregister_any, 374 connect_node_device_event_register_any,
411 domain_checkpoint_create_xml, 412 domain_checkpoint_get_xml_desc,
415 domain_checkpoint_lookup_by_name,
417 domain_checkpoint_delete, 418 domain_get_guest_info, 421 domain_backup_begin,
436 node_device_is_active
"""

UNSERVED: dict[int, str] = {
    int(number): name
    for number, name in (each.split() for each in _TEXT.split(",") if each.strip())
}
